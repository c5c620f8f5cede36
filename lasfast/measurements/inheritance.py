"""The neural inheritance relation, tested on a table of networks that were trained from scratch.

Meng et al. (Assumption 1, and their Figure 4) say that the best layer assignment of each depth inherits from
the best one of the depth before, which is what lets NIR look at a few heirs alone. Many assignments have many
heirs, so that some winners inherit by chance. `inheritance` counts, and says how often chance does as well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from lasfast.core.checks import as_int
from lasfast.measurements.measurement import as_value
from lasfast.spaces.base import Architecture


@dataclasses.dataclass(frozen=True)
class InheritanceStep:
    """One depth of a table, beside the depth before.

    Attributes:
        depth: the sum of the layers.
        networks: how many assignments of this depth the table has.
        best: the most accurate one.
        top1: its accuracy.
        inherits_from_best: whether it is an heir of the best assignment of the depth before: one with a layer
            more in one group.
        inherits_from_top: whether it is an heir of one of the `top` best.
        regret: by how much the best assignment is more accurate than the one which a search finds that
            always goes on with the best heir, where it knows the table's accuracies (NIR's Algorithm 1).
        regret_of_two: the same where the search keeps the best two at each depth.
        regret_of_random: the same where the search takes any heir, on average.
    """

    depth: int
    networks: int
    best: Architecture
    top1: float
    inherits_from_best: bool
    inherits_from_top: bool
    regret: float
    regret_of_two: float
    regret_of_random: float


@dataclasses.dataclass(frozen=True)
class AgainstChance:
    """A figure of a table beside those of tables whose accuracies are shuffled within each depth.

    Attributes:
        found: the figure.
        by_chance: its mean over shuffled tables.
        p: the probability that a shuffled table is at least as good for the relation.
    """

    found: float
    by_chance: float
    p: float


@dataclasses.dataclass(frozen=True)
class Inheritance:
    """The extent to which the best assignments of a table inherit from those of the depth before.

    Attributes:
        top: of how many best assignments `inherits_from_top` speaks.
        steps: the depths but the first.
        from_best: how many depths' best assignments inherit from the best one of the depth before.
        from_top: how many inherit from one of the `top` best.
        regret: the mean over depths of `InheritanceStep.regret`; less is better.
    """

    top: int
    steps: tuple[InheritanceStep, ...]
    from_best: AgainstChance
    from_top: AgainstChance
    regret: AgainstChance


def inheritance(
    accuracies: Mapping[Architecture, float], *, top: int = 4, draws: int = 10_000, seed: int = 0
) -> Inheritance:
    """Test the inheritance relation on layer assignments with known accuracies.

    Args:
        accuracies: by assignment; of at least two depths that follow each other without a gap, the next
            holding an heir of each assignment that the search goes through.
        top: how many of the best of a depth count as such; 4 in the paper's Figure 4.
        draws: how many shuffled tables chance is judged by.
        seed: decides how they are shuffled.

    Raises:
        ValueError: there are fewer than two depths, or one is missing between others; an assignment lacks
            heirs; an accuracy is not finite; assignments differ in their number of groups.
        TypeError: an accuracy is no number.
    """
    top, draws = as_int("top", top, minimum=1), as_int("draws", draws, minimum=1)
    levels = _levels(accuracies)
    heirs = [_heirs(before, level) for before, level in pairwise(levels)]
    for before, matrix in zip(levels[:-1], heirs, strict=True):
        if not (has_heirs := matrix.any(axis=1)).all():
            lonely = before[int(np.argmin(has_heirs))]
            raise ValueError(
                f"accuracies must have an assignment with one layer more than {lonely} in some group, as "
                "every assignment but the deepest has in a whole table"
            )
    known = [np.array([[as_value(accuracies[one], "accuracies")] for one in level]).T for level in levels]
    generator = np.random.default_rng(seed)
    shuffled = [generator.permuted(np.repeat(values, draws, axis=0), axis=1) for values in known]
    found, chance = _Figures.of(known, heirs, top), _Figures.of(shuffled, heirs, top)
    of_two, of_random = _regrets(known, heirs, 2), _random_regrets(known, heirs)
    steps = [
        InheritanceStep(
            depth=sum(level[0]),
            networks=len(level),
            best=level[int(values.argmax())],
            top1=float(values.max()),
            inherits_from_best=bool(found.from_best[0, at]),
            inherits_from_top=bool(found.from_top[0, at]),
            regret=float(found.regret[0, at]),
            regret_of_two=float(of_two[at][0]),
            regret_of_random=float(of_random[at][0]),
        )
        for at, (level, values) in enumerate(zip(levels[1:], known[1:], strict=True))
    ]
    return Inheritance(
        top,
        tuple(steps),
        _judge(found.from_best.sum(axis=1), chance.from_best.sum(axis=1)),
        _judge(found.from_top.sum(axis=1), chance.from_top.sum(axis=1)),
        _judge(found.regret.mean(axis=1), chance.regret.mean(axis=1), less_is_better=True),
    )


@dataclasses.dataclass(frozen=True)
class _Figures:
    """The figures of one or more tables of the same assignments, [tables, depths - 1]."""

    from_best: np.ndarray
    from_top: np.ndarray
    regret: np.ndarray

    @classmethod
    def of(cls, values: Sequence[np.ndarray], heirs: Sequence[np.ndarray], top: int) -> _Figures:
        """Return the figures of tables with accuracies [tables, assignments] for each depth."""
        ranks = list(map(_ranks, values))
        best, among = [], []
        for (before, here), matrix in zip(pairwise(ranks), heirs, strict=True):
            parents = matrix.T[here.argmin(axis=1)]  # of each table's best, [tables, assignments before]
            best.append((parents & (before < 1)).any(axis=1))
            among.append((parents & (before < top)).any(axis=1))
        return cls(*(np.stack(one, axis=1) for one in (best, among, _regrets(values, heirs, 1))))


def _levels(accuracies: Mapping[Architecture, float]) -> list[list[Architecture]]:
    """Return the assignments of each depth, both in order."""
    depths = sorted({sum(one) for one in accuracies})
    if len(depths) < 2 or depths[-1] - depths[0] >= len(depths):
        raise ValueError(
            f"accuracies must be of two or more depths, one after the other, got {depths or 'none'}"
        )
    if len({len(one) for one in accuracies}) > 1:
        raise ValueError("accuracies must be of assignments with the same number of groups")
    return [sorted(one for one in accuracies if sum(one) == depth) for depth in depths]


def _heirs(before: Sequence[Architecture], level: Sequence[Architecture]) -> np.ndarray:
    """Return which assignments of a level are heirs of which of the level before, bool [before, level]."""
    more = np.array(level)[None] - np.array(before)[:, None]
    return (more >= 0).all(axis=2)  # the depths differ by one layer


def _regrets(values: Sequence[np.ndarray], heirs: Sequence[np.ndarray], beam: int) -> list[np.ndarray]:
    """Return the regret at each depth but the first of keeping the best `beam` heirs, for each table."""
    kept, regrets = _best(values[0], beam), []
    for one, matrix in zip(values[1:], heirs, strict=True):
        reached = np.where(kept @ matrix, one, -math.inf)
        regrets.append(one.max(axis=1) - reached.max(axis=1))
        kept = _best(reached, beam) & (reached > -math.inf)
    return regrets


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value in its row, 0 for the greatest; of equal ones, the first comes first."""
    return np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """Return which are the `count` best of each row, bool of the same shape."""
    return _ranks(values) < count


def _random_regrets(values: Sequence[np.ndarray], heirs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the mean regret at each depth but the first of going on with any heir, for each table."""
    chance, regrets = _best(values[0], 1).astype(float), []
    for one, matrix in zip(values[1:], heirs, strict=True):
        chance = chance @ (matrix / matrix.sum(axis=1, keepdims=True))
        regrets.append(one.max(axis=1) - (chance * one).sum(axis=1))
    return regrets


def _judge(found: np.ndarray, chance: np.ndarray, less_is_better: bool = False) -> AgainstChance:
    """Compare a table's figure, [1], with those of shuffled ones."""
    lead = found - chance if less_is_better else chance - found
    as_good = int((lead >= -1e-12).sum())  # means of the same values may differ by rounding
    return AgainstChance(float(found[0]), float(chance.mean()), (1 + as_good) / (1 + len(chance)))
