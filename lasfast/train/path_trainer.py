"""What all trainers of a supernet share: sub-networks as paths, steps, and what the weights depend on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F

from lasfast.ir.layers import Layer, Path
from lasfast.ir.prefix_tree import ROOT, PrefixTree
from lasfast.runtime import distributed
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.progress import Progress
from lasfast.train.settings import TrainSettings, resolve
from lasfast.train.synchronized import batch_norm, check_batch_norms
from lasfast.train.trainer import REMEMBERED, Trainer
from lasfast.train.update import Used, used_parts


class PathTrainer(Trainer):
    """Trains sub-networks of a supernet, step by step; a study calls `train` before it measures a step.

    Within `lasfast.distributed.start`, all ranks train together, each on its images of every batch, with the
    same operators, fused or PyTorch's (`TrainSettings.operators`), by the statistics of the whole batch.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: Any,
        settings: TrainSettings | str,
        *,
        update: str,
        **overrides: Any,
    ) -> None:
        resolved = resolve(settings, **overrides)
        super().__init__(supernet, data, resolved, resolved.seed, update=update)
        self._world = world = distributed.world()
        if resolved.batch_size < world.size:
            raise ValueError(
                f"batch_size is {resolved.batch_size}, of all {world.size} ranks together; expected an image "
                "for each or more"
            )
        self._batch_norm: Callable[..., torch.Tensor] = F.batch_norm
        if world.size > 1:
            if world.any(self.operators == "torch")[0]:  # say, where one rank lacks the compiled module
                self.operators = "torch"
            self._batch_norm = partial(batch_norm, world)
        labels = getattr(self.data, "labels", None)
        if isinstance(labels, torch.Tensor) and labels.max() >= supernet.num_classes:
            raise ValueError(
                f"data has labels up to {labels.max().item()}; expected less than the supernet's "
                f"{supernet.num_classes} classes"
            )
        self.supernet = supernet
        self._runners: dict[str, Callable[[Layer, torch.Tensor], torch.Tensor]] = {}

    @abstractmethod
    def epochs(self, step: int) -> int:
        """Epochs of a step."""

    @abstractmethod
    def train(
        self, step: int, candidates: Sequence[Sequence[int]] = (), start: int = 0
    ) -> Iterator[Progress]:
        """Train one step from batch `start`, a Progress after every batch."""

    def finished(self, step: int) -> bool:
        """Whether the weights already went through all of a step."""
        return self.position >= (step, self.epochs(step) * self.batches)

    def _begin(self) -> None:
        super()._begin()
        self._runners.clear()

    def _logits(self, images: torch.Tensor, paths: Sequence[Architecture]) -> list[torch.Tensor]:
        """Run each distinct prefix of the paths once: its gradient is the sum of theirs."""
        plan = _plan(tuple(self.supernet.path(path) for path in paths))
        if self._world.size > 1:
            check_batch_norms(self.supernet, plan)
        run = self._runner()
        outputs = {ROOT: images}
        for number, node in enumerate(plan.nodes):
            outputs[number] = run(node.layer, outputs[node.parent])
        return [outputs[leaf] for leaf in plan.leaves]

    def _runner(self) -> Callable[[Layer, torch.Tensor], torch.Tensor]:
        """What runs a layer with the operators at hand."""
        if self.operators not in self._runners:
            fused = self.operators == "native"
            self._runners[self.operators] = self.supernet.layer_runner(
                self._batch_norm, fused=fused, ranks=self._world
            )
        return self._runners[self.operators]

    def _used(self, paths: Sequence[Architecture]) -> Used:
        layers = (layer for path in paths for layer in self.supernet.path(path))
        return used_parts(dict(self.supernet.named_modules()), layers)

    def describe(self) -> dict[str, Any]:
        """What the weights depend on besides the supernet, as JSON values; a study's header holds it."""
        describe = getattr(self.data, "describe", None)
        return {
            "settings": self.settings.describe(),
            "update": self.update,
            "data": {"batches": self.batches, **(describe() if describe else {})},
        }


@lru_cache(maxsize=REMEMBERED)
def _plan(paths: tuple[Path, ...]) -> PrefixTree:
    return PrefixTree(paths)
