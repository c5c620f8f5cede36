"""The training of Inter-layer Transition NAS (Ma et al. 2020): weights and architecture in turn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lasfast.data.protocols import Batch
from lasfast.data.training import as_training_images, halves, on_device
from lasfast.runtime import distributed
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.spaces import Architecture
from lasfast.spaces.cell import KINDS
from lasfast.spaces.transition import LearnedCell
from lasfast.supernets import CellNet
from lasfast.supernets.mixed import run_mixed
from lasfast.train.beforehand_trainer import BeforehandTrainer
from lasfast.train.cell_weights import PREFIX, CellWeights, load_cell_weights
from lasfast.train.settings import TrainSettings, check_bool, check_number, resolve
from lasfast.train.trainer import CHOICE
from lasfast.train.update import Used

INITIAL, HALVES, IMAGES = range(CHOICE + 1, CHOICE + 4)  # what a seed is for
BETAS = (0.5, 0.999)  # of Adam, as in DARTS' code


class ITNASTrainer(BeforehandTrainer):
    """Trains all operations of a `CellNet` at once, and in turn with them which of these each edge takes.

    Of each batch of one half of the training images the weights make a step of SGD, and before it, of a batch
    of the other half, the architecture parameters one of Adam (first order: with the weights as they
    are). Either step draws distributions for all cells of a kind anew: Gumbel softmax on the outer edges, at
    a temperature that falls linearly over training, and for the inner edges what follows by transition. The
    learning rate of the weights falls along a cosine. `learned()` is what a searcher prunes
    (`lasfast.searchers.ITNAS`).

    With `transition=False` and `gumbel=False` this is DARTS of first order; with `none=True` too, of all its
    operations.

    All this is the paper's (sections 3.2, 3.3 and 4.1.1), but the text of it that we have lacks the numbers:
    batch size, rates, decays and epochs are those of DARTS' code (the preset "darts"), the temperatures those
    of GDAS (Dong and Yang 2019). Settled by us: distributions are drawn anew for each step; rates and
    temperature change with each batch; the halves have as many images of each class.

    Args:
        supernet: its cells. The scales and shifts of their batch norms are set not to be trained, since they
            would do what the distributions are for.
        data: training images that can be divided, as those of `lasfast.data` and pairs of tensors; or the
            weights' half, where `architecture_data` is the other.
        settings: TrainSettings or a preset's name; further keywords override single fields. Of them,
            `supernet_epochs` are the epochs.
        architecture_data: images that the architecture is trained on.
        final_learning_rate: of the weights, at the end.
        architecture_learning_rate, architecture_weight_decay: of Adam.
        temperature: the first and the last.
        transition: whether inner edges follow from their predecessors; else they have parameters as the
            outer ones do.
        gumbel: whether distributions are drawn; else they are softmaxes.
        none: whether an edge may do nothing, too, while it is searched.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range, or several processes.
    """

    def __init__(
        self,
        supernet: CellNet,
        data: Any,
        settings: TrainSettings | str = "darts",
        *,
        architecture_data: Any = None,
        final_learning_rate: float = 0.001,
        architecture_learning_rate: float = 3e-4,
        architecture_weight_decay: float = 1e-3,
        temperature: tuple[float, float] = (10.0, 0.1),
        transition: bool = True,
        gumbel: bool = True,
        none: bool = False,
        **overrides: Any,
    ) -> None:
        if not isinstance(supernet, CellNet):
            raise TypeError(f"supernet must be a CellNet, got {type(supernet).__name__}")
        if distributed.world().size > 1:
            raise ValueError("ITNAS trains in one process; start it without torchrun")
        settings = resolve(settings, **overrides)
        check_number("final_learning_rate", final_learning_rate, least=0)
        if final_learning_rate > settings.learning_rate:
            raise ValueError(
                f"final_learning_rate is {final_learning_rate}; expected at most the learning_rate, "
                f"{settings.learning_rate}"
            )
        check_number("architecture_learning_rate", architecture_learning_rate, above=0)
        check_number("architecture_weight_decay", architecture_weight_decay, least=0)
        for name, value in {"transition": transition, "gumbel": gumbel, "none": none}.items():
            check_bool(name, value)
        if not isinstance(temperature, Sequence) or len(temperature) != 2:
            raise ValueError(f"temperature is {temperature!r}; expected a pair, the first and the last")
        first, last = temperature
        check_number("temperature", last, above=0)
        check_number("temperature", first, least=last)
        images = as_training_images(data)
        if architecture_data is None:
            images, held = halves(images, derive(settings.seed, HALVES))
        else:
            held = as_training_images(architecture_data)
        for name, module in supernet.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name.startswith("stack."):
                module.requires_grad_(False)
        super().__init__(supernet, images, settings, update="joint")
        self.architecture_data = on_device(held, self.device)
        self.final_learning_rate = final_learning_rate
        self.temperature = (float(first), float(last))
        self._space = supernet.space
        self.options = {"transition": transition, "gumbel": gumbel, "none": none}
        with torch_seed(derive(self.seed, INITIAL)):
            cells = {kind: CellWeights(supernet.space, transition=transition, none=none) for kind in KINDS}
        self.cells = nn.ModuleDict(cells).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.cells.parameters(), architecture_learning_rate, BETAS, weight_decay=architecture_weight_decay
        )
        self._mixture: Mapping[str, Tensor] = {}
        self._source: Iterator[Batch] = iter(())
        self._next = -1  # the batch that `_source` gives next

    def learned(self) -> dict[str, LearnedCell]:
        """What was learned so far of each kind of cell, as plain numbers."""
        return {kind: weights.learned() for kind, weights in self._cells()}

    def temperature_at(self, batch: int) -> float:
        """The temperature of a batch, from 0: the first of the first one, the last of the last one."""
        first, last = self.temperature
        return first + (last - first) * batch / max(1, self.epochs(0) * self.batches - 1)

    def _learning_rate(self, step: int, batch: int) -> float:
        share = batch / (self.epochs(step) * self.batches)
        low, high = self.final_learning_rate, self.settings.learning_rate
        return low + (high - low) * (1 + math.cos(math.pi * share)) / 2

    def _paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> Sequence[Any]:
        return (None,)

    def _used(self, paths: Sequence[Any]) -> Used:
        return [(parameter, [()]) for parameter in self._parameters]

    def _begin(self) -> None:
        super()._begin()
        with torch.no_grad():
            self._mixture = {kind: weights.expected() for kind, weights in self._cells()}

    def _logits(self, images: Tensor, paths: Sequence[Any]) -> list[Tensor]:
        assert isinstance(self.supernet, CellNet)
        return [run_mixed(self.supernet, self._runner(), images, self._mixture)]

    def _before_update(self) -> None:
        """Make the architecture's step, then draw what the weights' step is made with."""
        batch = self.position[1]
        images, labels = self.passes.place(*self._architecture_batch(batch))
        self._mixture = self._draw(batch)
        (loss,) = self._losses(self._logits_of(images, (None,)), labels)
        parameters = list(self.cells.parameters())
        # Of the weights, no gradients are made.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self._mixture = self._draw(batch)

    def _draw(self, batch: int) -> dict[str, Tensor]:
        """Distributions of both kinds of cell."""
        if not self.options["gumbel"]:
            return {kind: weights.expected() for kind, weights in self._cells()}
        temperature = self.temperature_at(batch)
        return {kind: weights.sample(temperature) for kind, weights in self._cells()}

    def _cells(self) -> list[tuple[str, CellWeights]]:
        return list(self.cells.items())  # type: ignore[arg-type]

    def _architecture_batch(self, number: int) -> Batch:
        """Images and labels of the other half for a batch of this one; the other's epochs go round."""
        data, size = self.architecture_data, self.settings.batch_size
        epoch, batch = divmod(number, data.num_batches(size))
        if number != self._next or batch == 0:
            self._source = iter(data.batches(size, derive(self.seed, 0, epoch, IMAGES), batch))
        self._next = number + 1
        return next(self._source)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training goes on from; besides `Trainer.state`, `architecture.*` and `adam.*`."""
        tensors, values = super().state()
        for name, parameter in self.cells.named_parameters():
            tensors[f"{PREFIX}{name}"] = parameter.detach().cpu().clone()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = value.detach().cpu().clone()
        return tensors, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises ValueError, having changed nothing, where it belongs to another network or search.
        """
        options = {name: self.options[name] for name in ("transition", "none")}
        saved = nn.ModuleDict(load_cell_weights(self._space, tensors, **options))
        super().load_state(tensors, values)
        self._next = -1
        self.optimizer.state.clear()
        with torch.no_grad():
            for name, parameter in self.cells.named_parameters():
                parameter.copy_(saved.get_parameter(name))
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    value = tensors.get(f"adam.{key}.{name}")
                    if value is not None:  # none before the first step
                        there = "cpu" if key == "step" else self.device
                        self.optimizer.state[parameter][key] = value.to(there, copy=True)

    def describe(self) -> dict[str, Any]:
        """What the weights depend on besides the supernet, as JSON values; a study's header holds it."""
        describe = getattr(self.architecture_data, "describe", None)
        group = self.optimizer.param_groups[0]
        return super().describe() | {
            "itnas": {
                **self.options,
                "final_learning_rate": self.final_learning_rate,
                "architecture_learning_rate": group["lr"],
                "architecture_weight_decay": group["weight_decay"],
                "temperature": list(self.temperature),
                "architecture_data": describe() if describe else None,
            }
        }
