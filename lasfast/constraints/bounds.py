"""Bounds of single costs, and the text that they are written as."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from lasfast.core.checks import as_finite

_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_COUNTS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_UNITS = {"latency": _SECONDS, "seconds": _SECONDS | {"min": 60.0, "h": 3600.0}, "memory": _BYTES}
_SHARES = {"%": 0.01, "x": 1.0}
_NUMBER = r"[0-9.]+(?:e[+-]?[0-9]+)?"
_BOUND = re.compile(
    rf"(?:(?P<least>{_NUMBER})\s*(?P<least_unit>[A-Za-z]*|%)\s*<=\s*(?=[^<>]*<=))?"
    rf"(?P<cost>[A-Za-z_]\w*)\s*(?P<side><=|>=)\s*(?P<number>{_NUMBER})\s*(?P<unit>[A-Za-z]*|%)"
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

    def readable(self) -> str:
        """Return the bound with units, rounded to be read: `flops<=330M`, `8M<=params<=9M`."""
        name, _, where = self.cost.partition("@")
        low, high = map(self.quantity, (self.low, self.high))
        if math.isinf(self.low) and math.isinf(self.high):
            text = f"any {name}"
        elif math.isinf(self.high):
            text = f"{name}>={low}"
        else:
            text = f"{name}<={high}" if math.isinf(self.low) else f"{low}<={name}<={high}"
        return text + (f"@{where}" if where else "")

    def quantity(self, number: float, digits: int = 6) -> str:
        """Return a number of this cost in the largest unit that it has one of: `85.1M`, `12ms`."""
        units = units_of(self.cost)
        decimal = {size: unit for unit, size in reversed(units.items()) if "i" not in unit}
        size = max((one for one in decimal if one <= abs(number)), default=1.0)
        return f"{number / size:.{digits}g}{decimal[size]}"

    def __str__(self) -> str:
        name, _, where = self.cost.partition("@")
        sides = [("<=", self.high), (">=", self.low)]
        at = f"@{where}" if where else ""
        return ",".join(f"{name}{side}{limit:.12g}{at}" for side, limit in sides if math.isfinite(limit))


def parse_bounds(text: str, whole: Callable[[str], float] | None = None) -> tuple[Bound, ...]:
    """Read bounds from text; return one for each cost that it names, in order.

    The text is `name<=number`, `name>=number` or `number<=name<=number`, joined by commas. A number may have
    a unit: k, M, G, T (powers of 1000) or Ki, Mi, Gi, Ti (of 1024) for counts; s, ms, us for `latency`, with
    min and h also for `seconds` (of training); kB, MB, GB, KiB, MiB, GiB for `memory`. After the last number,
    `@where` says where the cost was measured. With `%` or `x`, a number is relative to the cost of a whole
    network: `flops<=50%`, `latency<=0.5x@cpu`.

    Args:
        text: the text.
        whole: returns what the whole network costs, by the name of the cost; None where there is none.

    Raises:
        TypeError: not a string.
        ValueError: malformed, a unit that does not fit the cost, bounds that no number meets, or a number
            that is relative to a network where there is none.
    """
    if not isinstance(text, str):
        raise TypeError(f"constraint must be text {_EXAMPLE}, got {text!r}")
    sides: dict[str, dict[str, float]] = {}
    for part in text.split(","):
        match = _BOUND.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"constraint must be bounds {_EXAMPLE}, got {part.strip()!r}")
        name, side, where = match["cost"], match["side"], match["where"]
        cost = f"{name}@{where}" if where else name
        given = sides.setdefault(cost, {"<=": math.inf, ">=": -math.inf})
        limit = _number(match["number"], match["unit"], cost, part, whole)
        given[side] = min(given[side], limit) if side == "<=" else max(given[side], limit)
        if match["least"] is not None:
            least = _number(match["least"], match["least_unit"], cost, part, whole)
            given[">="] = max(given[">="], least)
    return tuple(Bound(cost, given[">="], given["<="]) for cost, given in sides.items())


def units_of(cost: str) -> dict[str, float]:
    """Return the units that a cost's numbers may have, with their sizes: such as 1e-3 for ms."""
    return _UNITS.get(cost.partition("@")[0], _COUNTS)


def _number(text: str, unit: str, cost: str, part: str, whole: Callable[[str], float] | None) -> float:
    """Return a limit of a cost; ValueError for a malformed number or a unit that does not fit the cost."""
    name, units = cost.partition("@")[0], units_of(cost)
    try:
        number = as_finite("limit", float(text))
    except ValueError:
        raise ValueError(f"constraint {part.strip()!r}: {text!r} is no number") from None
    if unit in units:
        return number * units[unit]
    if unit not in _SHARES:
        known = ", ".join(filter(None, (*units, *_SHARES)))
        raise ValueError(f"constraint {part.strip()!r}: the unit of {name} must be one of {known}")
    if whole is None:
        raise ValueError(
            f"constraint {part.strip()!r}: a number with {unit!r} is relative to the network that has all "
            "weights, and there is none here"
        )
    return number * _SHARES[unit] * whole(cost)
