"""Curricula and schedules: the paths that a batch trains, and the learning rate at its position.

A position in training is (step, batch): the step's batches are counted through its epochs. Every random
choice is a function of the seed and the position.
"""

from __future__ import annotations

import abc
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from lasfast.core.checks import check_choice
from lasfast.runtime.seeds import derive
from lasfast.spaces import Architecture, LayerAssignmentSpace
from lasfast.train.samplers import PathSampler
from lasfast.train.settings import TrainSettings

DROPOUT, CHOICE, INITIAL, HALVES, IMAGES, MIXING, HEAD = range(
    1, 8
)  # what a seed is for: the last counter of `derive`
PATHS = ("every", "uniform")


class Schedule(abc.ABC):
    """A schedule says for how many epochs each step trains, and at which learning rate."""

    @abc.abstractmethod
    def epochs(self, step: int) -> int:
        """Return the epochs of a step."""

    @abc.abstractmethod
    def learning_rate(self, step: int, batch: int, batches: int) -> float:
        """Return the rate of a batch of a step, whose epochs have so many `batches`."""


class StepSchedule(Schedule):
    """The schedule of NIR: a warm-up at the base rate, then steps at half of it, falling linearly to zero."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings

    def epochs(self, step: int) -> int:
        """Return those of the warm-up for step 0, and equally many for all others."""
        return self.settings.epochs_per_step if step else self.settings.warm_up_epochs

    def learning_rate(self, step: int, batch: int, batches: int) -> float:
        """Return the rate of a batch."""
        if step == 0:
            return self.settings.learning_rate
        return self.settings.learning_rate / 2 * (1 - batch / (self.epochs(step) * batches))


class SingleStep(Schedule):
    """Trains in step 0 alone: a supernet before a search asks for candidates, or a network on its own.

    Args:
        epochs: of step 0.
        rate: takes the share that is done of what follows the ramp, from 0 to 1; returns the learning rate.
        ramp_epochs: the first epochs, in which the rate rises by equal parts from one batch to the next.
    """

    def __init__(self, epochs: int, rate: Callable[[float], float], ramp_epochs: float = 0) -> None:
        self._epochs, self._rate, self._ramp_epochs = epochs, rate, ramp_epochs

    def epochs(self, step: int) -> int:
        """Return the epochs of step 0, and 0 for all others."""
        return 0 if step else self._epochs

    def learning_rate(self, step: int, batch: int, batches: int) -> float:
        """Return the rate of a batch."""
        ramp = self._ramp_epochs * batches
        if batch < ramp:
            return self._rate(0) * min(1.0, (batch + 1) / ramp)
        return self._rate((batch - ramp) / (self._epochs * batches - ramp))


class MilestoneSchedule(SingleStep):
    """Trains a network for `standalone_epochs`; the rate falls at each of `milestones`, after the ramp."""

    def __init__(self, settings: TrainSettings) -> None:
        rate = constant(settings.learning_rate)
        super().__init__(settings.standalone_epochs, rate, settings.standalone_ramp_epochs)
        self.settings = settings

    def learning_rate(self, step: int, batch: int, batches: int) -> float:
        """Return the rate of a batch."""
        passed = sum(batch >= milestone * batches for milestone in self.settings.milestones)
        return super().learning_rate(step, batch, batches) * self.settings.milestone_factor**passed


def constant(rate: float) -> Callable[[float], float]:
    """Return a rate that stays."""
    return lambda share: rate


def linear(rate: float) -> Callable[[float], float]:
    """Return a rate that falls linearly to zero."""
    return lambda share: rate * (1 - share)


def cosine(rate: float, final: float = 0.0) -> Callable[[float], float]:
    """Return a rate that falls along half a cosine to `final`."""
    return lambda share: final + (rate - final) * (1 + math.cos(math.pi * share)) / 2


def exponential(rate: float, end: float) -> Callable[[float], float]:
    """Return a rate that falls by the same factor in equal times, to the share `end` of what it was."""
    return lambda share: rate * end**share


def _rate(name: str, settings: TrainSettings) -> Callable[[float], float]:
    """Return the learning rate of a schedule by the share that is done of it."""
    if name == "exponential":
        return exponential(settings.learning_rate, settings.exponential_end)
    return {"linear": linear, "cosine": cosine, "constant": constant}[name](settings.learning_rate)


def supernet_schedule(settings: TrainSettings) -> Schedule:
    """Return the schedule of a supernet that is trained before a search."""
    rate = _rate(settings.supernet_schedule, settings)
    return SingleStep(settings.supernet_epochs, rate, settings.supernet_ramp_epochs)


def standalone_schedule(settings: TrainSettings) -> Schedule:
    """Return the schedule of a network that is trained on its own."""
    if settings.standalone_schedule == "milestones":
        return MilestoneSchedule(settings)
    rate = _rate(settings.standalone_schedule, settings)
    return SingleStep(settings.standalone_epochs, rate, settings.standalone_ramp_epochs)


class Curriculum(abc.ABC):
    """Says which paths a batch trains.

    A path is whatever the trainer's `Forward` can run. None stands for all paths that it has.
    """

    recurs = False
    """True where the batches of a step train the same few paths again and again, as CUDA graphs need it."""
    counted = slice(None)
    """The paths of a batch, by their order, whose loss and accuracy are reported in steps from 1 on."""
    full: Any = None
    """The largest path, where each batch trains it before or with all others; else None."""

    def check(self, step: int, candidates: Sequence[Sequence[int]]) -> Sequence[Architecture]:
        """Return the candidates that a step trains for; raise ValueError where it cannot train for these."""
        if step or candidates:
            raise ValueError(
                f"step must be 0, without candidates, got {step} with {len(candidates)}: such a supernet is "
                "trained before the search"
            )
        return ()

    @abc.abstractmethod
    def paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> Sequence[Any]:
        """Return what a batch trains, in order: equally many paths for all batches of a step."""


class Whole(Curriculum):
    """All that there is, as one: a network without a choice, or the mixture of all choices."""

    def __init__(self, *, recurs: bool = True) -> None:
        self.recurs = recurs

    def paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> tuple[None]:
        """Return the one path."""
        return (None,)


class DeepestAndCandidates(Curriculum):
    """The deepest sub-network and the candidates of the step: all of them, or one drawn for each batch.

    This is Algorithm 1 of Meng et al.; step 0, the warm-up, trains the deepest alone.
    """

    recurs = True
    counted = slice(1, None)  # the candidates

    def __init__(
        self,
        space: LayerAssignmentSpace,
        seed: int,
        deepest: Sequence[int] | None = None,
        paths: str = "every",
    ) -> None:
        check_choice("paths", paths, PATHS)
        self.space, self.seed, self.every = space, seed, paths == "every"
        self.deepest: Architecture = space.validate(space.deepest if deepest is None else deepest)
        self.full = self.deepest

    def check(self, step: int, candidates: Sequence[Sequence[int]]) -> Sequence[Architecture]:
        """Return the candidates as the space has them: none in step 0, one or more in others."""
        if step < 0 or (step == 0) != (not candidates):
            raise ValueError(
                "step must be 0 (the warm-up) without candidates, or a later one with one or more, "
                f"got {step} with {len(candidates)}"
            )
        return [self.space.validate(candidate) for candidate in candidates]

    def paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> Sequence[Architecture]:
        """Return the deepest, and then candidates."""
        if self.every or not candidates:
            return (self.deepest, *candidates)
        return self.deepest, candidates[derive(self.seed, step, batch, CHOICE) % len(candidates)]


class Sampled(Curriculum):
    """The sub-networks that a sampler draws for each batch."""

    def __init__(self, sampler: PathSampler, seed: int) -> None:
        self.sampler, self.seed = sampler, seed
        self.full = sampler.full

    def paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> Sequence[Architecture]:
        """Return what the sampler draws from this batch's seed."""
        return self.sampler.draw(random.Random(derive(self.seed, step, batch, CHOICE)))
