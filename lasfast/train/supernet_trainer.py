"""Training a supernet step by step, for the candidates of each step (Algorithm 1 of the NIR paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lasfast.runtime.seeds import derive
from lasfast.spaces import Architecture
from lasfast.supernets import LayerAssignmentSupernet
from lasfast.train.path_trainer import PathTrainer
from lasfast.train.progress import Progress
from lasfast.train.settings import TrainSettings
from lasfast.train.trainer import CHOICE

PATHS = ("every", "uniform")


class SupernetTrainer(PathTrainer):
    """Trains the deepest sub-network first, then in each step the deepest and the step's candidates.

    `paths="every"` is Algorithm 1 of Meng et al. (lines 5 to 12): every batch trains the deepest and then
    each candidate in order, an update of the weights each. `paths="uniform"` trains the deepest and then one
    candidate drawn uniformly, as single-path one-shot does (Guo et al. 2019, section 3.2).

    Warm-up (step 0) is at the base learning rate; a step is at half of it, falling linearly to zero. What an
    update does not use of the weights, slices of a weight included, gets no gradient, no weight decay, and
    keeps its momentum. Momentum is kept from step to step. `update="joint"` makes one update of all that a
    batch trains, with the sum of their gradients, and runs the layers that they share once; "sequential", an
    update each, is the paper's.

    `data` is `dataset.train` of `lasfast.data`, a pair of tensors (images [N, C, H, W], labels [N] int64), or
    a DataLoader. `settings` is a preset's name or TrainSettings; further keywords override single fields:
    `SupernetTrainer(supernet, data.train, "cifar100", epochs_per_step=5)`.

    Training works in place on `supernet`, on the device its weights are on when the trainer is made.
    """

    def __init__(
        self,
        supernet: LayerAssignmentSupernet,
        data: Any,
        settings: TrainSettings | str = "small",
        *,
        deepest: Sequence[int] | None = None,
        paths: str = "every",
        update: str = "sequential",
        **overrides: Any,
    ) -> None:
        if paths not in PATHS:
            raise ValueError(f"paths is {paths!r}; expected one of {', '.join(PATHS)}")
        super().__init__(supernet, data, settings, update=update, **overrides)
        self.paths = paths
        space = supernet.space
        self.deepest: Architecture = space.validate(space.deepest if deepest is None else deepest)

    def epochs(self, step: int) -> int:
        """Epochs of a step."""
        return self.settings.epochs_per_step if step else self.settings.warm_up_epochs

    def train(
        self, step: int, candidates: Sequence[Sequence[int]] = (), start: int = 0
    ) -> Iterator[Progress]:
        """Train one step from batch `start`, a Progress after every batch. Step 0 is the warm-up.

        The bits of the weights depend on their state before, `step`, `candidates`, settings and seed, not on
        where the work was cut into calls. Raises NonFiniteLossError when training diverges.
        """
        if step < 0 or (step == 0) != (not candidates):
            raise ValueError(
                f"step is {step} with {len(candidates)} candidates; expected step 0 (warm-up) without, "
                "or a later step with at least one"
            )
        valid = [self.supernet.space.validate(candidate) for candidate in candidates]
        counted = slice(1, None) if valid else slice(None)
        return self._run(step, self.epochs(step), start, valid, counted)

    def _paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> Sequence[Architecture]:
        if self.paths == "every" or not candidates:
            return (self.deepest, *candidates)
        return self.deepest, candidates[derive(self.seed, step, batch, CHOICE) % len(candidates)]

    def _learning_rate(self, step: int, batch: int) -> float:
        if step == 0:
            return self.settings.learning_rate
        return self.settings.learning_rate / 2 * (1 - batch / (self.epochs(step) * self.batches))

    def describe(self) -> dict[str, Any]:
        """What the weights depend on besides the supernet, as JSON values; a study's header holds it."""
        return super().describe() | {"paths": self.paths, "deepest": list(self.deepest)}
