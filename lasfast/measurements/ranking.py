"""Statistics of how accuracies with inherited weights agree with those of stand-alone training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lasfast.measurements.measurement import Measurement, as_value
from lasfast.spaces.base import Architecture

Accuracies: TypeAlias = Mapping[Architecture, Measurement | float] | Sequence[Measurement | float]
"""Accuracies of some architectures: by architecture, or in an order that both sides share."""


def accuracy_gap(stand_alone: Accuracies, one_shot: Accuracies) -> float:
    """Return the mean absolute difference of the accuracies (NIR, Eq. 7), in their unit.

    Args:
        stand_alone: accuracies of the architectures trained on their own; at least one.
        one_shot: accuracies of the same architectures with the supernet's weights.

    Raises:
        ValueError: the two sides have not the same architectures, or not as many, or too few; or an accuracy
            is NaN or infinite.
        TypeError: one side is by architecture and the other in order, or a value is no number.
    """
    pairs = _pairs(stand_alone, one_shot, least=1)
    return math.fsum(abs(a - b) for a, b in pairs) / len(pairs)


def kendall_tau(stand_alone: Accuracies, one_shot: Accuracies) -> float:
    """Return Kendall's tau-b of the two rankings, from -1 (reversed) to 1 (the same), corrected for ties.

    It is NaN where all accuracies of a side are equal, which ranks nothing. Arguments and errors are those of
    `accuracy_gap`, with at least two architectures.
    """
    from scipy.stats import kendalltau

    return _correlation(kendalltau, stand_alone, one_shot)


def spearman_rho(stand_alone: Accuracies, one_shot: Accuracies) -> float:
    """Return Spearman's rank correlation, from -1 (reversed) to 1 (the same); ties share their rank.

    It is NaN where all accuracies of a side are equal, which ranks nothing. Arguments and errors are those of
    `accuracy_gap`, with at least two architectures.
    """
    from scipy.stats import spearmanr

    return _correlation(spearmanr, stand_alone, one_shot)


def _correlation(statistic: Callable[..., Any], stand_alone: Accuracies, one_shot: Accuracies) -> float:
    a, b = zip(*_pairs(stand_alone, one_shot, least=2), strict=True)
    if len(set(a)) == 1 or len(set(b)) == 1:
        return math.nan
    return float(statistic(a, b).statistic)


def _pairs(stand_alone: Accuracies, one_shot: Accuracies, least: int) -> list[tuple[float, float]]:
    """Return the accuracies of each architecture on both sides."""
    if isinstance(stand_alone, Mapping) and isinstance(one_shot, Mapping):
        different = sorted(set(stand_alone) ^ set(one_shot))
        if different:
            raise ValueError(
                f"stand_alone and one_shot must have the same architectures; {different[0]} is in only one"
            )
        a, b = list(stand_alone.values()), [one_shot[architecture] for architecture in stand_alone]
    elif isinstance(stand_alone, Mapping) or isinstance(one_shot, Mapping):
        raise TypeError("stand_alone and one_shot must both be mappings, or both be sequences")
    else:
        a, b = list(stand_alone), list(one_shot)
    if len(a) != len(b) or len(a) < least:
        raise ValueError(
            f"stand_alone and one_shot must have the same number of accuracies, at least {least}; "
            f"got {len(a)} and {len(b)}"
        )
    return [
        (as_value(left, "each of stand_alone"), as_value(right, "each of one_shot"))
        for left, right in zip(a, b, strict=True)
    ]
