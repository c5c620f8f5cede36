"""Updates of the weights that some sub-networks use: of those alone, and by SGD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lasfast.execution.modules import parameter_shapes
from lasfast.ir import layers
from lasfast.ir.layers import Layer
from lasfast.ops.sgd import Index, Sgd, SgdRule

Used = Sequence[tuple[nn.Parameter, Sequence[Index]]]
"""Weights, and the parts of each that are in use."""


class Update:
    """An update of the weights in `used`, again and again.

    What is not in use is left alone: nothing decays, and momentum stays; weights that got no gradient, too.
    `momenta` are those of all updates; a weight's begins as zeros, with its first.
    """

    def __init__(self, used: Used, momenta: dict[nn.Parameter, Tensor], rule: SgdRule) -> None:
        self._used, self._momenta, self._rule = used, momenta, rule
        self._kept: tuple[int, ...] | None = None
        self._sgd: Sgd | None = None

    def take_gradients(self) -> list[Tensor | None]:
        """The gradients of the weights in use, which lose them."""
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
        return Sgd(weights, momenta, [parts for _, parts in used], self._rule)


def used_parts(modules: Mapping[str, nn.Module], path: Iterable[Layer]) -> Used:
    """What these layers, of one sub-network or several, use of the weights of `modules`, by dotted names."""
    shapes: dict[nn.Parameter, set[tuple[int, ...]]] = {}
    for op in (op for layer in path for op in layer.ops):
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
    """Parts that together are all leading parts of these shapes, which differ in two dimensions at most."""
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
