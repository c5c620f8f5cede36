"""Checks of plain arguments, whose errors say "NAME must be EXPECTATION, got VALUE"."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np

MOST_BITS = 8


def as_int(name: str, value: object, minimum: int | None = None) -> int:
    """Return `value` as a plain int of at least `minimum`, if there is one; bools and floats are refused."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def as_ints(name: str, values: object) -> tuple[int, ...]:
    """Return an ordered collection of ints (also of numpy's) as a tuple of plain ints."""
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of ints such as (2, 5, 2, 3), got {values!r}")
    values = tuple(values)
    try:
        if any(isinstance(value, bool | np.bool_) for value in values):
            raise TypeError
        return tuple(operator.index(value) for value in values)
    except TypeError:
        raise TypeError(f"{name} must hold only ints, got {values!r}") from None


def as_real(name: str, value: object) -> float:
    """Return a real number (also numpy's) as a float; bools are refused."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    return float(value)


def as_finite(name: str, value: object) -> float:
    """Return a real number that is neither NaN nor infinite as a float."""
    number = as_real(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {number}")
    return number


def as_number(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number within bounds as a plain int or float."""
    number = as_finite(name, value)
    bounds = [
        (minimum, "at least", minimum is None or number >= minimum),
        (above, "above", above is None or number > above),
        (below, "below", below is None or number < below),
    ]
    if not all(holds for *_, holds in bounds):
        wanted = " and ".join(f"{text} {bound}" for bound, text, _ in bounds if bound is not None)
        raise ValueError(f"{name} must be {wanted}, got {value}")
    return value if isinstance(value, int | float) else number


def as_bool(name: str, value: object) -> bool:
    """Return a bool (also numpy's) as a plain one."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_positive(**values: int) -> None:
    """Raise a ValueError that names the first argument that is not a positive int."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive int, got {value!r}")


def check_bits(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless `value` is a number of bits to quantize to: an int from 1 to 8."""
    if as_int(name, value, minimum=1) > MOST_BITS:
        raise ValueError(f"{name} must be from 1 to {MOST_BITS}, got {value}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ValueError that names the argument and its choices, unless the value is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
