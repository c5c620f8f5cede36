"""Inter-layer Transition NAS (Ma et al. 2020): what each edge of a cell takes is trained with the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lasfast.core.checks import as_bool, as_number
from lasfast.data.protocols import Shard
from lasfast.data.training import (
    as_training_images,
    augmented,
    describe_images,
    halves,
    on_device,
    shards,
)
from lasfast.runtime import distributed
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.spaces import CellSpace
from lasfast.spaces.cell import INPUTS, KINDS
from lasfast.spaces.transition import LearnedCell
from lasfast.supernets import CellNet
from lasfast.supernets.mixed import run_mixed
from lasfast.train.curriculum import DROPOUT, HALVES, IMAGES, INITIAL, SingleStep, Whole, cosine
from lasfast.train.forward import Forward, SupernetForward
from lasfast.train.presets import resolve
from lasfast.train.settings import TrainSettings
from lasfast.train.supernet import PathTrainer
from lasfast.train.update import Used

PREFIX = "architecture."  # of the parameters' names in a checkpoint
DEVIATION = 1e-3  # of initial architecture parameters, as in DARTS' code
BETAS = (0.5, 0.999)  # of Adam, as in DARTS' code


class CellWeights(nn.Module):
    """The architecture parameters of one kind of cell: distributions over the operations of its edges.

    Outer edges, which read the cell's inputs, have logits of their own. The distribution of an inner edge
    (i, j) is the sum, over its predecessors (h, i), of share h times the predecessor's distribution times a
    transition matrix (Eq. 11). Rows of the matrices and the shares are softmaxes of parameters, so
    that Eq. 10 and 12 hold.

    Args:
        space: the cells.
        transition: False gives every edge logits of its own, as DARTS does.
        none: whether "an edge does nothing" is one more operation, as in DARTS.
    """

    def __init__(self, space: CellSpace, *, transition: bool, none: bool) -> None:
        super().__init__()
        self.edges = space.edges
        columns = len(space.operations) + none
        self.free_edges = [edge for edge in self.edges if edge[0] < INPUTS or not transition]
        self.inner_edges = [edge for edge in self.edges if edge not in self.free_edges]
        self.free = _parameter(len(self.free_edges), columns)
        self.transitions = nn.ParameterDict(
            {_name(edge): _parameter(edge[0], columns, columns) for edge in self.inner_edges}
        )
        self.attention = nn.ParameterDict({_name(edge): _parameter(edge[0]) for edge in self.inner_edges})

    def sample(self, temperature: float) -> Tensor:
        """Draw distributions [edges, columns], with Gumbel noise on the free edges (Eq. 5).

        A high temperature makes them even, one near 0 nearly one-hot. The noise comes from torch's generator.
        """
        # The logarithm of an exponential variable is a Gumbel one, negated.
        noise = -torch.empty_like(self.free).exponential_().log()
        return self.complete(torch.softmax((self.free.log_softmax(1) + noise) / temperature, 1))

    def expected(self) -> Tensor:
        """Return distributions [edges, columns] without noise."""
        return self.complete(self.free.softmax(1))

    def complete(self, free: Tensor) -> Tensor:
        """Return distributions of all edges [edges, columns] from those of the free ones (Eq. 11)."""
        rows = dict(zip(self.free_edges, free, strict=True))
        for edge in self.inner_edges:
            source = edge[0]
            before = torch.stack([rows[earlier, source] for earlier in range(source)])
            transitions = self.transitions[_name(edge)].softmax(2)
            shares = self.attention[_name(edge)].softmax(0)
            rows[edge] = torch.einsum("h,hm,hmn->n", shares, before, transitions)
        return torch.stack([rows[edge] for edge in self.edges])

    def learned(self) -> LearnedCell:
        """Return the parameters as plain numbers, without noise."""
        free = _numbers(self.free.softmax(1))
        return LearnedCell(
            dict(zip(self.free_edges, free, strict=True)),
            {edge: _numbers(self.transitions[_name(edge)].softmax(2)) for edge in self.inner_edges},
            {edge: _numbers(self.attention[_name(edge)]) for edge in self.inner_edges},
        )


def load_cell_weights(
    space: CellSpace, tensors: Mapping[str, Tensor], *, transition: bool, none: bool
) -> dict[str, CellWeights]:
    """Return the parameters of each kind of cell that a checkpoint of `ITNASTrainer` holds.

    Raises:
        ValueError: it holds those of other cells, or of other options.
    """
    with torch.device("meta"):  # no numbers are drawn
        cells = {kind: CellWeights(space, transition=transition, none=none) for kind in KINDS}
    module = nn.ModuleDict(cells)
    saved = {name.removeprefix(PREFIX): one for name, one in tensors.items() if name.startswith(PREFIX)}
    if {name: one.shape for name, one in module.state_dict().items()} != {
        name: one.shape for name, one in saved.items()
    }:
        raise ValueError("the saved architecture parameters are of another space, or of other options")
    module.load_state_dict(saved, assign=True)
    return cells


class MixtureForward(SupernetForward):
    """Runs all operations of a `CellNet` at once, weighted by the distributions in `mixture`."""

    supernet: CellNet

    def __init__(self, supernet: CellNet, settings: TrainSettings) -> None:
        super().__init__(supernet, settings, distributed.world())
        self.mixture: Mapping[str, Tensor] = {}

    def logits(self, images: Tensor, paths: Sequence[Any]) -> list[Tensor]:
        """Run the mixture; it is the one path."""
        return [run_mixed(self.supernet, self.runner(), images, self.mixture)]

    def used(self, paths: Sequence[Any]) -> Used:
        """Return all weights, whole, as a forward pass does that knows nothing of layers."""
        return Forward.used(self, paths)


class ITNASTrainer(PathTrainer):
    """Trains all operations of a `CellNet` at once, and in turn with them which of these each edge takes.

    The training images are cut into halves. For each batch of the first half, the architecture parameters
    make a step of Adam on a batch of the second half (of first order: with the weights as they are); then the
    weights make a step of SGD on the batch itself. Each of the two steps draws distributions anew, for all
    cells of a kind alike: by Gumbel softmax for the outer edges, at a temperature that falls linearly over
    training; those of the inner edges follow by transition. The learning rate of the weights falls along a
    cosine. `learned()` is what a searcher prunes (`lasfast.searchers.ITNAS`).

    With `transition=False` and `gumbel=False` this is DARTS of first order; with `none=True` too, DARTS with
    all its operations.

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
        final_learning_rate: the rate of the weights at the end.
        architecture_learning_rate, architecture_weight_decay: Adam's.
        temperature: the first and the last.
        transition: whether inner edges follow from their predecessors; else they have parameters as the
            outer ones do.
        gumbel: whether distributions are drawn; else they are softmaxes.
        none: whether an edge may also do nothing while it is searched.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range.
    """

    forward: MixtureForward

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
        settings = resolve(settings, **overrides)
        final = as_number("final_learning_rate", final_learning_rate, minimum=0)
        if final > settings.learning_rate:
            raise ValueError(
                f"final_learning_rate must be at most the learning_rate, {settings.learning_rate}, got "
                f"{final}"
            )
        rate = as_number("architecture_learning_rate", architecture_learning_rate, above=0)
        decay = as_number("architecture_weight_decay", architecture_weight_decay, minimum=0)
        options = {"transition": transition, "gumbel": gumbel, "none": none}
        self.options = {name: as_bool(name, value) for name, value in options.items()}
        if not isinstance(temperature, Sequence) or len(temperature) != 2:
            raise ValueError(f"temperature must be a pair, the first and the last, got {temperature!r}")
        coldest = as_number("temperature", temperature[1], above=0)
        self.temperature = (float(as_number("temperature", temperature[0], minimum=coldest)), float(coldest))
        images = as_training_images(data)
        if architecture_data is None:
            images, held = halves(images, derive(settings.seed, HALVES))
        else:
            held = as_training_images(architecture_data)
        for name, module in supernet.named_modules():
            if isinstance(module, nn.BatchNorm2d) and name.startswith("stack."):
                module.requires_grad_(False)
        super().__init__(
            MixtureForward(supernet, settings),
            images,
            settings,
            Whole(recurs=False),
            SingleStep(settings.supernet_epochs, cosine(settings.learning_rate, final)),
            update="joint",
        )
        self.architecture_data = on_device(augmented(held, settings.augmentation), self.device)
        self.final_learning_rate = final_learning_rate
        self._space = supernet.space
        with torch_seed(derive(self.seed, INITIAL)):
            cells = {kind: CellWeights(supernet.space, transition=transition, none=none) for kind in KINDS}
        self.cells = nn.ModuleDict(cells).to(self.device)
        self.optimizer = torch.optim.Adam(self.cells.parameters(), rate, BETAS, weight_decay=decay)
        self._source: Iterator[Shard] = iter(())
        self._next = -1  # the batch that `_source` gives next

    def learned(self) -> dict[str, LearnedCell]:
        """Return what was learned so far of each kind of cell, as plain numbers."""
        return {kind: weights.learned() for kind, weights in self._cells()}

    def temperature_at(self, batch: int) -> float:
        """Return the temperature of a batch: the first for batch 0, the last for the last one."""
        first, last = self.temperature
        return first + (last - first) * batch / max(1, self.epochs(0) * self.batches - 1)

    def begin_step(self) -> None:
        """Prepare for training, with the distributions that are expected until the first are drawn."""
        super().begin_step()
        with torch.no_grad():
            self.forward.mixture = {kind: weights.expected() for kind, weights in self._cells()}

    def before_update(self) -> None:
        """Make the architecture's step, then draw what the weights' step is made with."""
        batch = self.position[1]
        images, labels, size = self._architecture_batch(batch)
        images, labels = self.passes.place(images, labels)
        self.forward.mixture = self._draw(batch, 1)
        (loss,) = self.objective.by_labels(self.forward(images, (None,)), labels)
        share = loss * (len(labels) / size)  # of the whole batch's mean
        parameters = list(self.cells.parameters())
        gradients = torch.autograd.grad(share, parameters)  # of the weights, none are made
        self.world.sum_(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.forward.mixture = self._draw(batch, 2)

    def _draw(self, batch: int, number: int) -> dict[str, Tensor]:
        """Return the first or the second distributions of a batch, of both kinds of cell."""
        if not self.options["gumbel"]:
            return {kind: weights.expected() for kind, weights in self._cells()}
        if self.world.size == 1:
            return self._sample(batch)
        # Each process draws its dropout by a seed of its own, but distributions by that of one process.
        with torch_seed(derive(self.seed, *self.position, DROPOUT), self.device):
            return [self._sample(batch) for _ in range(number)][-1]

    def _sample(self, batch: int) -> dict[str, Tensor]:
        temperature = self.temperature_at(batch)
        return {kind: weights.sample(temperature) for kind, weights in self._cells()}

    def _cells(self) -> list[tuple[str, CellWeights]]:
        return list(self.cells.items())  # type: ignore[arg-type]

    def _architecture_batch(self, number: int) -> Shard:
        """Return this process's part of the other half's batch for one of this half; its epochs go round."""
        data, size = self.architecture_data, self.settings.batch_size
        epoch, batch = divmod(number, data.num_batches(size))
        if number != self._next or batch == 0:
            self._source = shards(data, size, derive(self.seed, 0, epoch, IMAGES), batch, self.world)
        self._next = number + 1
        return next(self._source)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `Trainer.state` does, and the tensors `architecture.*` and `adam.*`."""
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
        """Return what the weights depend on besides the supernet, as JSON values, for a study's header."""
        group = self.optimizer.param_groups[0]
        return super().describe() | {
            "itnas": {
                **self.options,
                "final_learning_rate": self.final_learning_rate,
                "architecture_learning_rate": group["lr"],
                "architecture_weight_decay": group["weight_decay"],
                "temperature": list(self.temperature),
                "architecture_data": describe_images(self.architecture_data),
            }
        }


def _parameter(*sizes: int) -> nn.Parameter:
    return nn.Parameter(DEVIATION * torch.randn(*sizes, dtype=torch.float32))


def _numbers(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().double().cpu().numpy(), np.float64)


def _name(edge: tuple[int, int]) -> str:
    return f"{edge[0]}-{edge[1]}"
