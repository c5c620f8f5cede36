"""Training a supernet step by step: Algorithm 1 of the NIR paper, or one uniform path per batch (SPOS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lasfast.train.progress import Progress
from lasfast.train.seeds import derive
from lasfast.train.settings import TrainSettings, resolve
from lasfast.train.trainer import CHOICE, Trainer

Architecture = tuple[int, ...]
PATHS = ("every", "uniform")


class SupernetTrainer(Trainer):
    """Trains the deepest sub-network first, then in each step the deepest and the step's candidates.

    `paths="every"` is Algorithm 1 of Meng et al. (lines 5 to 12): every batch trains the deepest and then
    each candidate in order, an update of the weights each. `paths="uniform"` trains the deepest and then one
    candidate drawn uniformly, as single-path one-shot does (Guo et al. 2019, section 3.2).

    Warm-up (step 0) is at the base learning rate; a step is at half of it, falling linearly to zero. Weights
    that an update does not use get no gradient, no weight decay, and keep their momentum. Momentum is kept
    from step to step.

    `data` is `dataset.train` of `lasfast.data`, a pair of tensors (images [N, C, H, W], labels [N] int64), or
    a DataLoader. `settings` is a preset's name or TrainSettings; further keywords override single fields:
    `SupernetTrainer(supernet, data.train, "cifar100", epochs_per_step=5)`.

    Training works in place on `supernet`, on the device its weights are on when the trainer is made.
    """

    def __init__(
        self,
        supernet: Any,
        data: Any,
        settings: TrainSettings | str = "small",
        *,
        deepest: Sequence[int] | None = None,
        paths: str = "every",
        **overrides: Any,
    ) -> None:
        if paths not in PATHS:
            raise ValueError(f"paths is {paths!r}; expected one of {', '.join(PATHS)}")
        resolved = resolve(settings, **overrides)
        super().__init__(supernet, data, resolved, resolved.seed)
        labels = getattr(self.data, "labels", None)
        if isinstance(labels, torch.Tensor) and labels.max() >= supernet.num_classes:
            raise ValueError(
                f"data has labels up to {labels.max().item()}; expected less than the supernet's "
                f"{supernet.num_classes} classes"
            )
        self.supernet = supernet
        self.paths = paths
        self.deepest: Architecture = supernet.space.validate(
            supernet.space.deepest if deepest is None else deepest
        )

    def epochs(self, step: int) -> int:
        """Epochs of a step."""
        return self.settings.epochs_per_step if step else self.settings.warm_up_epochs

    def finished(self, step: int) -> bool:
        """Whether the weights already went through all of a step."""
        return self.position >= (step, self.epochs(step) * self.batches)

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

    def _logits(self, images: torch.Tensor, path: Architecture) -> torch.Tensor:
        return self.supernet(images, path)

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
        describe = getattr(self.data, "describe", None)
        return {
            "settings": self.settings.describe(),
            "paths": self.paths,
            "deepest": list(self.deepest),
            "data": {"batches": self.batches, **(describe() if describe else {})},
        }
