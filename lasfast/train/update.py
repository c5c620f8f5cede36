"""The rule of an update: SGD on the weights that a batch's paths use, slices of weights included."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lasfast.execution.modules import parameter_shapes
from lasfast.ir import layers
from lasfast.ir.layers import Layer
from lasfast.ops.sgd import Index, Sgd, SgdRule

Used = Sequence[tuple[nn.Parameter, Sequence[Index]]]
"""Weights, and the parts of each that are in use."""
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
REMEMBERED = 64  # updates whose tables are kept: a step has few, random paths make ever new ones


class Updates:
    """Updates by one rule, of whatever weights the paths at hand use. `momenta` are those of all updates.

    The weights in `undecayed` have no weight decay.
    """

    def __init__(self, rule: SgdRule, undecayed: Iterable[nn.Parameter] = ()) -> None:
        self.rule, self.undecayed = rule, frozenset(undecayed)
        self.momenta: dict[nn.Parameter, Tensor] = {}
        self._updates: dict[Hashable, Update] = {}

    def of(self, paths: Hashable, used: Callable[[], Used]) -> Update:
        """Return the update of the weights that `paths` use, which `used` tells."""
        update = self._updates.pop(paths, None)
        update = update or Update(used(), self.momenta, self.rule, self.undecayed)
        self._updates[paths] = update  # the last one
        if len(self._updates) > REMEMBERED:
            del self._updates[next(iter(self._updates))]
        return update

    def restart(self, momenta: Mapping[nn.Parameter, Tensor]) -> None:
        """Go on from copies of these momenta; weights without one start anew."""
        self._updates.clear()
        self.momenta.clear()
        for weight, momentum in momenta.items():
            self.momenta[weight] = torch.empty_like(weight.detach()).copy_(momentum)


class Update:
    """An update of the weights in `used`, to be run again and again.

    It leaves alone what is not in use, and weights without a gradient: nothing decays there, and momentum
    stays. A weight's momentum begins as zeros, at its first update.
    """

    def __init__(
        self,
        used: Used,
        momenta: dict[nn.Parameter, Tensor],
        rule: SgdRule,
        undecayed: Collection[nn.Parameter] = (),
    ) -> None:
        self._used, self._momenta, self._rule, self._undecayed = used, momenta, rule, undecayed
        self._kept: tuple[int, ...] | None = None
        self._sgd: Sgd | None = None

    def take_gradients(self) -> list[Tensor | None]:
        """Take the gradients off the weights in use, and return them."""
        gradients = [weight.grad for weight, _ in self._used]
        for weight, _ in self._used:
            weight.grad = None
        return gradients

    def run(self, gradients: Sequence[Tensor | None], learning_rate: float, scale: float) -> None:
        """Update by `scale` times these gradients, as `take_gradients` gave them."""
        kept = tuple(number for number, gradient in enumerate(gradients) if gradient is not None)
        if self._sgd is None or kept != self._kept:
            self._sgd, self._kept = self._make([self._used[number] for number in kept]), kept
        self._sgd.update([one for one in gradients if one is not None], learning_rate, scale)

    def _make(self, used: Used) -> Sgd:
        weights = [weight for weight, _ in used]
        momenta = None
        if self._rule.momentum:
            for weight in weights:
                if weight not in self._momenta:
                    self._momenta[weight] = torch.zeros_like(weight)
            momenta = [self._momenta[weight] for weight in weights]
        decays = [weight not in self._undecayed for weight in weights]
        return Sgd(weights, momenta, [parts for _, parts in used], self._rule, decays)


def biases_and_norms(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the biases of all layers, and the scales of norms."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if "bias" in name or isinstance(module, NORMS):
                yield parameter


def used_parts(modules: Mapping[str, nn.Module], path: Iterable[Layer]) -> Used:
    """Return what the layers of one or more paths use of the weights of `modules` (by dotted names)."""
    shapes: dict[nn.Parameter, set[tuple[int, ...]]] = {}
    for op in (op for layer in path for op in layer.ops):
        if isinstance(op, layers.Code):
            for owner, _, last in (one.rpartition(".") for one in op.tensors):
                tensor = getattr(modules[owner], last)
                if isinstance(tensor, nn.Parameter):
                    shapes.setdefault(tensor, set()).add(tuple(tensor.shape))
        name = getattr(op, "module", None)
        if name is None:
            continue
        own = dict(modules[name].named_parameters())
        opaque = isinstance(op, layers.Opaque)
        read = ((key, one.shape) for key, one in own.items()) if opaque else parameter_shapes(op)
        for key, shape in read:
            shapes.setdefault(own[key], set()).add(tuple(shape))
    return [(weight, list(_union(read, weight.shape))) for weight, read in shapes.items()]


def _union(shapes: set[tuple[int, ...]], whole: tuple[int, ...]) -> Iterator[Index]:
    """Cut the union of the leading parts of these shapes into parts that do not overlap.

    The shapes differ in their first two dimensions at most.
    """
    if shapes == {tuple(whole)}:
        yield ()
        return
    corners = {(*shape, 1)[:2] for shape in shapes}
    first = 0
    for rows in sorted({rows for rows, _ in corners}):
        columns = max(columns for other, columns in corners if other >= rows)
        if any(other > rows and width == columns for other, width in corners):
            continue  # the rows below are as wide
        yield (slice(first, rows), slice(columns))[: len(whole)]
        first = rows
