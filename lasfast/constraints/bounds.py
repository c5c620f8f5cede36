"""Bounds of single costs, and the text that they are written as."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lasfast.core.checks import as_finite

_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_COUNTS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_UNITS = {"latency": _SECONDS, "memory": _BYTES}
_BOUND = re.compile(
    r"(?P<cost>[A-Za-z_]\w*)\s*(?P<side><=|>=)\s*(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[A-Za-z]*)"
    r"(?:@(?P<where>[\w.-]+))?"
)
_EXAMPLE = "such as 'flops<=330M,params<=4M,latency<=12ms@cpu'"


@dataclass(frozen=True)
class Bound:
    """The bound low <= cost <= high.

    Attributes:
        cost: the name of the cost; `latency@cpu` for a cost that depends on where it was measured.
        low, high: the limits in the cost's unit (multiply-adds, weights, seconds, bytes); infinite for none.
    """

    cost: str
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(
                f"{self.cost} must be at least {self.low:.12g} and at most {self.high:.12g}: no number is"
            )

    def __str__(self) -> str:
        name, _, where = self.cost.partition("@")
        sides = [("<=", self.high), (">=", self.low)]
        at = f"@{where}" if where else ""
        return ",".join(f"{name}{side}{limit:.12g}{at}" for side, limit in sides if math.isfinite(limit))


def parse_bounds(text: str) -> tuple[Bound, ...]:
    """Read bounds from text; return one for each cost that it names, in order.

    The text is `name<=number` or `name>=number`, joined by commas. A number may have a unit: k, M, G, T
    (powers of 1000) or Ki, Mi, Gi, Ti (of 1024) for counts; s, ms, us for `latency`; kB, MB, GB, KiB, MiB,
    GiB for `memory`. After the number, `@where` says where the cost was measured.

    Raises:
        TypeError: not a string.
        ValueError: malformed, a unit that does not fit the cost, or bounds that no number meets.
    """
    if not isinstance(text, str):
        raise TypeError(f"constraint must be text {_EXAMPLE}, got {text!r}")
    sides: dict[str, dict[str, float]] = {}
    for part in text.split(","):
        match = _BOUND.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"constraint must be bounds {_EXAMPLE}, got {part.strip()!r}")
        name, side, unit, where = match["cost"], match["side"], match["unit"], match["where"]
        units = _UNITS.get(name, _COUNTS)
        if unit not in units:
            known = ", ".join(filter(None, units))
            raise ValueError(f"constraint {part.strip()!r}: the unit of {name} must be one of {known}")
        limit = _number(match["number"], part) * units[unit]
        given = sides.setdefault(f"{name}@{where}" if where else name, {"<=": math.inf, ">=": -math.inf})
        given[side] = min(given[side], limit) if side == "<=" else max(given[side], limit)
    return tuple(Bound(cost, given[">="], given["<="]) for cost, given in sides.items())


def _number(text: str, part: str) -> float:
    try:
        return as_finite("limit", float(text))
    except ValueError:
        raise ValueError(f"constraint {part.strip()!r}: {text!r} is no number") from None
