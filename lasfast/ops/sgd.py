"""Stochastic gradient descent on parts of many tensors in one call of the compiled module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lasfast.runtime import compiled, kernels, placement

Index = tuple[slice, ...]
"""A part of a tensor, `tensor[index]`: leading dimensions are cut, the others whole; () is all of it."""
_COLUMNS = 10  # the int64 of an `SgdPart` in csrc/include/lasfast/sgd.h
_GRADIENT = 1  # the column of the gradient's address
_ITEM = 4  # the bytes of a float


@dataclass(frozen=True)
class SgdRule:
    """The rule by which gradients become updates: that of `torch.optim.SGD`, without dampening.

    Attributes:
        clip_norm: the bound of the Euclidean norm of an update's scaled gradient, all parts together.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = None


class Sgd:
    """Updates the same parts of the same tensors again and again, and leaves the rest of them alone.

    Args:
        weights: tensors to update in place, all on one device.
        momenta: like each weight, updated in place; None without momentum.
        indices: of each weight, the parts that are updated; no two overlap.
        rule: how gradients become updates.
        decays: whether the rule's weight decay counts for each weight; by default it does for all.

    float32 on the CPU and on CUDA goes through the compiled module, in one launch for all tensors, or three
    with `clip_norm`; nothing waits for the device. Everything else goes through PyTorch's operators. On the
    CPU both give the same bits, but for the norm of `clip_norm`, whose sums are in another order.

    Raises ValueError where shapes, dtypes or devices do not fit, before any work.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        momenta: Sequence[Tensor] | None,
        indices: Sequence[Sequence[Index]],
        rule: SgdRule,
        decays: Sequence[bool] | None = None,
    ) -> None:
        if (momenta is None) != (rule.momentum == 0):
            raise ValueError(
                f"momenta must be None exactly if momentum is 0, got a momentum of {rule.momentum}"
            )
        self.weights, self.momenta, self.rule = list(weights), list(momenta or ()), rule
        self._indices = [list(parts) for parts in indices]
        if len(self._indices) != len(self.weights):
            raise ValueError(
                f"indices must have {len(self.weights)} lists, one for each weight, got {len(self._indices)}"
            )
        self._decays = [True] * len(self.weights) if decays is None else list(decays)
        if len(self._decays) != len(self.weights):
            raise ValueError(
                f"decays must have {len(self.weights)} bools, one for each weight, got {len(self._decays)}"
            )
        if momenta is not None:
            _check_fit("momenta", self.momenta, self.weights)
        self._prepare()

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], learning_rate: float, gradient_scale: float = 1.0) -> None:
        """Update by `gradient_scale` times these gradients, one for each weight, of its shape."""
        _check_fit("gradients", gradients, self.weights)
        if self._addresses != [weight.data_ptr() for weight in self.weights]:
            self._prepare()  # the weights were moved since
        if self._table is None:
            decays = [decay for decay, parts in zip(self._decays, self._indices, strict=True) for _ in parts]
            sgd_reference(self._parts(gradients), self.rule, learning_rate, gradient_scale, decays)
            return
        self._table.run(gradients, self.rule, learning_rate, gradient_scale)
        increment_version([*self.weights, *self.momenta])  # so that autograd sees what changed

    def _prepare(self) -> None:
        self._addresses = [weight.data_ptr() for weight in self.weights]
        tensors = self.weights, self.momenta
        self._table = _Table(*tensors, self._indices, self._decays) if self._is_native() else None

    def _is_native(self) -> bool:
        """Return whether the kernels can update all: dense fp32 weights, momenta laid out like them."""
        strides = [weight.stride() for weight in self.weights]
        return (
            bool(self.weights)
            and all(kernels.usable_for(weight) for weight in self.weights)
            and all(weight.dtype == torch.float32 for weight in self.weights)
            and strides == [torch.empty_like(weight, device="meta").stride() for weight in self.weights]
            and (not self.momenta or strides == [momentum.stride() for momentum in self.momenta])
        )

    def _parts(self, gradients: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        momenta: Sequence[Tensor | None] = self.momenta or [None] * len(self.weights)
        tensors = zip(self.weights, gradients, momenta, self._indices, strict=True)
        return [
            (w[at], g[at], None if m is None else m[at]) for w, g, m, indices in tensors for at in indices
        ]


def sgd_reference(
    parts: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    rule: SgdRule,
    learning_rate: float,
    gradient_scale: float = 1.0,
    decays: Sequence[bool] | None = None,
) -> None:
    """Update each (weight, gradient, momentum) in PyTorch, which rounds each product and sum by itself."""
    decays = decays or [True] * len(parts)
    scaled = [gradient * gradient_scale for _, gradient, _ in parts]
    if rule.clip_norm is not None and scaled:
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in scaled]))
        factor = (rule.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        scaled = [g * factor for g in scaled]
    for (weight, _, momentum), gradient, decay in zip(parts, scaled, decays, strict=True):
        g = gradient + weight * rule.weight_decay if rule.weight_decay and decay else gradient
        if momentum is not None:
            momentum.mul_(rule.momentum).add_(g)
            g = g + momentum * rule.momentum if rule.nesterov else momentum
        weight.sub_(g * learning_rate)


def _check_fit(name: str, tensors: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    if len(tensors) != len(weights):
        raise ValueError(f"{name} must have {len(weights)} tensors, one for each weight, got {len(tensors)}")
    for number, (one, weight) in enumerate(zip(tensors, weights, strict=True)):
        if one.shape != weight.shape or one.dtype != weight.dtype or one.device != weight.device:
            raise ValueError(f"{name}[{number}] must be {_kind(weight)} as its weight is, got {_kind(one)}")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"


class _Table:
    """The table of parts that the compiled module reads, on the device."""

    def __init__(
        self,
        weights: Sequence[Tensor],
        momenta: Sequence[Tensor],
        indices: Sequence[Sequence[Index]],
        decays: Sequence[bool],
    ) -> None:
        rows, owners, offsets = [], [], []
        device = weights[0].device
        for owner, weight in enumerate(weights):
            for index in indices[owner]:
                for sizes, strides, start in _dense_parts(weight[index]):
                    offset = _ITEM * (start - weight.storage_offset())
                    momentum = momenta[owner].data_ptr() + offset if momenta else 0
                    decay = int(decays[owner])
                    rows.append((weight.data_ptr() + offset, 0, momentum, *sizes, *strides, decay, 0))
                    owners.append(owner)
                    offsets.append(offset)
        self._strides = [weight.stride() for weight in weights]
        self._rows = torch.tensor(rows, dtype=torch.int64).view(len(rows), _COLUMNS)
        self._owners, self._offsets = (torch.tensor(one, dtype=torch.int64) for one in (owners, offsets))
        self._chunks = compiled.load().sgd_chunks(self._rows.data_ptr(), len(rows))
        self._gradients: list[int] = []
        self._there = torch.empty_like(self._rows, device=device) if device.type == "cuda" else self._rows
        self._workspace: Tensor | None = None

    def run(
        self, gradients: Sequence[Tensor], rule: SgdRule, learning_rate: float, gradient_scale: float
    ) -> None:
        laid_out = [
            gradient
            if gradient.stride() == stride
            else torch.empty_strided(
                gradient.shape, stride, dtype=gradient.dtype, device=gradient.device
            ).copy_(gradient)
            for gradient, stride in zip(gradients, self._strides, strict=True)
        ]
        self._point_at([gradient.data_ptr() for gradient in laid_out])
        module = compiled.load()
        if rule.clip_norm is not None and self._workspace is None:
            size = module.sgd_workspace(self._chunks)
            self._workspace = torch.empty(size, dtype=torch.uint8, device=self._there.device)
        kind, arguments = placement.of(self._there)
        getattr(module, f"sgd_{kind}")(
            self._there.data_ptr(),
            len(self._rows),
            self._chunks,
            learning_rate,
            rule.momentum,
            rule.weight_decay,
            rule.nesterov,
            gradient_scale,
            rule.clip_norm or 0.0,
            0 if self._workspace is None else self._workspace.data_ptr(),
            *(arguments[:1] if kind == "cpu" else arguments),  # the CPU's code is the same for all sets
        )

    def _point_at(self, gradients: list[int]) -> None:
        if gradients == self._gradients:
            return
        torch.add(torch.tensor(gradients)[self._owners], self._offsets, out=self._rows[:, _GRADIENT])
        if self._there is not self._rows:
            # From pinned memory of its own: nothing waits, and the rows may change before they are copied.
            self._there.copy_(self._rows.pin_memory(), non_blocking=True)
        self._gradients = gradients


def _dense_parts(part: Tensor) -> Iterator[tuple[list[int], list[int], int]]:
    """Cut a part into pieces of three dimensions, the last one dense.

    Yields sizes, the strides of the first two, and where a piece starts, in elements.
    """
    start = int(part.storage_offset())
    merged: list[tuple[int, int]] = []  # (size, stride), the greatest stride first
    for stride, size in sorted(zip(part.stride(), part.shape, strict=True), reverse=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            size *= merged.pop()[0]
        merged.append((size, stride))
    if not merged or merged[-1][1] != 1:
        merged.append((1, 1))
    while len(merged) < 3:
        merged.insert(0, (1, 0))
    yield from _pieces(merged, start)


def _pieces(dimensions: list[tuple[int, int]], start: int) -> Iterator[tuple[list[int], list[int], int]]:
    if len(dimensions) == 3:
        yield [size for size, _ in dimensions], [stride for _, stride in dimensions[:2]], start
        return
    (count, stride), *rest = dimensions
    for number in range(count):
        yield from _pieces(rest, start + number * stride)
