"""The operations of a training step, one by one: what each has to do, and what it takes.

lasfast's passes are functions that autograd's nodes call, and are timed where they are called. PyTorch's
other operators are watched from its dispatcher, in further steps, since that makes steps slower.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks._roof import CLOCK, Machine, Sums, Work, convolution_kind, count, products_by, touched
from lasfast.ops import bn_act_kernels, sgd
from lasfast.ops.bn_act_schema import BnActInputs
from lasfast.ops.sliced_conv2d import Convolution
from lasfast.runtime.winograd import TILES

FORWARD, GRAD_INPUT, GRAD_WEIGHT, BOTH = (
    "forward",
    "gradient of input",
    "gradient of weight",
    "both gradients",
)
PASSES_BY_NAME = {
    FORWARD: "forward with statistics",
    GRAD_INPUT: "grad_input",
    GRAD_WEIGHT: "grad_weight",
}
NORM = "batch norm, sum, activation"
KINDS = {
    "copy of values": ("_to_copy", "copy_", "clone", "cat", "constant_pad_nd"),
    "shuffle of channels": ("channel_shuffle", "native_channel_shuffle"),
    "gradient of a slice": ("slice_backward",),
    "sum of values": ("add", "add_"),
    "linear": ("mm", "addmm"),
}
"""The kinds of PyTorch's operators, by their names; pools have theirs, and all others are one."""
POOL, OTHER = "pool", "other operators of PyTorch"
WRITES_ONLY = ("zero_", "fill_", "zeros", "zeros_like", "ones_like", "new_zeros")
DIRECT = tuple(
    importlib.import_module(f"lasfast.ops.{name}") for name in ("bn_act", "conv_bn_act", "depthwise")
)
"""The modules that call kernels directly where nobody watches PyTorch's operators."""


def convolution_work(convolution: Convolution, which: str) -> Work:
    """Return what a pass of a convolution has to do."""
    geometry, itemsize = convolution.geometry, convolution._dtype.itemsize
    images, channels, height, width = geometry.input
    _, out_channels, out_height, out_width = geometry.output
    kernel = geometry.weight[2:]
    weights = out_channels * channels // geometry.groups * kernel[0] * kernel[1]
    products = images * out_height * out_width * weights
    products = products_by(_tile(convolution, which), products)
    positions = touched(height, width, out_height, out_width, max(kernel), geometry.stride)
    read = images * channels * positions * itemsize
    whole = images * channels * height * width * itemsize
    out = images * out_channels * out_height * out_width * itemsize
    weight = weights * convolution._weight_dtype.itemsize
    return {
        FORWARD: Work(products, read + out + weight),
        GRAD_INPUT: Work(products, whole + out + weight),
        GRAD_WEIGHT: Work(products, read + out + weight),
        BOTH: Work(2 * products, read + whole + out + 2 * weight),
    }[which]


def _tile(convolution: Convolution, which: str) -> int:
    """Return the tile of Winograd's algorithm by which a pass was computed, 0 where it was by none."""
    return TILES.get(convolution._fastest_ways.get(PASSES_BY_NAME.get(which, ""), ""), 0)


def kind_of(convolution: Convolution, which: str) -> str:
    """Return the kind of a pass of a convolution, as the record names it."""
    geometry = convolution.geometry
    return f"{convolution_kind(geometry.weight[2:], geometry.input[1], geometry.groups)}, {which}"


class Watch:
    """Times lasfast's passes while `watching`.

    Attributes:
        sums: by kind of pass.
        passes: how many passes run at the moment, one within the other.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sums: Sums = {}
        self.passes = 0
        self._is_timed = False
        self._counted = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time lasfast's passes."""
        with ExitStack() as stack:
            for name, which in (
                ("forward", FORWARD),
                ("forward_statistics", FORWARD),
                ("grad_input", GRAD_INPUT),
                ("grad_weight", GRAD_WEIGHT),
            ):
                timed = self._timed(getattr(Convolution, name), _of_convolution(which))
                stack.enter_context(patch.object(Convolution, name, timed))
            both = self._timed(Convolution.gradients, _of_convolution(BOTH), transparent=True)
            stack.enter_context(patch.object(Convolution, "gradients", both))
            for name, describe in (
                ("batch_statistics", lambda x: (f"{NORM}, statistics", Work(0, x.nbytes))),
                ("bn_act", _of_norm),
                ("bn_act_in_training", _of_norm),
                ("bn_act_backward", _of_norm_backward),
            ):
                timed = self._timed(getattr(bn_act_kernels, name), describe)
                stack.enter_context(patch.object(bn_act_kernels, name, timed))
            update = self._timed(sgd.Sgd.update, _of_update)
            stack.enter_context(patch.object(sgd.Sgd, "update", update))
            yield

    def _timed(
        self,
        function: Callable[..., Any],
        describe: Callable[..., tuple[str, Work]],
        *,
        transparent: bool = False,
    ) -> Callable[..., Any]:
        """Return a function that counts its calls, but for those within another's.

        A `transparent` one leaves it to those that it calls, where there are any.
        """

        @wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            if self._is_timed:
                return function(*arguments, **named)
            before, self._is_timed = self._counted, not transparent
            self.passes += 1
            start = CLOCK()
            try:
                result = function(*arguments, **named)
            finally:
                seconds = CLOCK() - start
                self._is_timed = False
                self.passes -= 1
            if before == self._counted:
                self._counted += 1
                kind, work = describe(*arguments)
                count(self.sums, kind, self.machine, work, seconds)
            return result

        return run


class Operators(TorchDispatchMode):
    """Times PyTorch's operators, but views, memory without values, and what lasfast's passes call."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.sums: Sums = {}
        self._watch = Watch(machine)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the operators of steps that run as if nobody watched."""
        with ExitStack() as stack:
            for module in DIRECT:
                stack.enter_context(patch.object(module, "is_direct", bn_act_kernels.supports))
            stack.enter_context(self._watch.watching())
            stack.enter_context(self)
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = CLOCK()
        result = func(*args, **(kwargs or {}))
        seconds = CLOCK() - start
        name = func.overloadpacket.__name__
        if self._watch.passes or name.startswith("empty") or _is_view(func):
            return result
        read = [] if name in WRITES_ONLY else _tensors((args, kwargs))
        written = _tensors(result)
        size = sum(min(one.nbytes, one.untyped_storage().nbytes()) for one in (*read, *written))
        work = Work(_products(name, read, written), size)
        count(self.sums, operator_kind(name), self._watch.machine, work, seconds)
        return result


def operator_kind(name: str) -> str:
    """Return the kind of an operator of PyTorch's."""
    if "pool" in name:
        return POOL
    return next((kind for kind, names in KINDS.items() if name in names), OTHER)


def _is_view(func: Any) -> bool:
    aliases = [one.alias_info for one in func._schema.returns]
    return any(one is not None and not one.is_write for one in aliases)


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


def _products(name: str, read: Sequence[Tensor], written: Sequence[Tensor]) -> int:
    """Return the multiply-adds of a product of matrices."""
    if name not in ("mm", "addmm"):
        return 0
    return written[0].numel() * read[-1].shape[0]


def _of_convolution(which: str) -> Callable[..., tuple[str, Work]]:
    def describe(convolution: Convolution, *arguments: Any) -> tuple[str, Work]:
        return kind_of(convolution, which), convolution_work(convolution, which)

    return describe


def _size(*tensors: Tensor | None) -> int:
    return sum(one.nbytes for one in tensors if one is not None)


def _of_norm(inputs: BnActInputs, *_: Any) -> tuple[str, Work]:
    return f"{NORM}, forward", Work(0, 2 * _size(inputs.x) + _size(inputs.residual))


def _of_norm_backward(
    grad: Tensor, inputs: BnActInputs, results: Sequence[Tensor | None], *_: Any
) -> tuple[str, Work]:
    read = _size(grad, inputs.x)
    if inputs.activation != "none":  # its gradient depends on the sum
        read += _size(inputs.residual)
    return f"{NORM}, backward", Work(0, read + _size(*results))


def _of_update(update: sgd.Sgd, *_: Any) -> tuple[str, Work]:
    parts = [
        weight[at] for weight, places in zip(update.weights, update._indices, strict=True) for at in places
    ]
    moved = 5 if update.momenta else 3  # weight and momentum are read and written, the gradient is read
    return "update of weights", Work(0, moved * _size(*parts))


def measure(
    trainer: Callable[[], Callable[[], None]], machine: Machine, steps: int, warm_up: int = 1
) -> dict[str, Any]:
    """Return the sums by kind of operation for one step, and what it takes in all.

    `trainer` returns a function that trains a batch, each time from the same weights and along the same
    paths. The first such run lets what is chosen by measurements be chosen.
    """
    _warm(trainer, warm_up + steps)
    watch, operators = Watch(machine), Operators(machine)
    run, seconds = _warm(trainer, warm_up), []
    with watch.watching():
        for _ in range(steps):
            start = CLOCK()
            run()
            seconds.append(CLOCK() - start)
    run = _warm(trainer, warm_up)
    with operators.watching():
        for _ in range(steps):
            run()
    sums = watch.sums | operators.sums
    for one in sums.values():
        one.divide(steps)
    return {"steps": steps, "whole_seconds": statistics.mean(seconds), "kinds": sums}


def _warm(trainer: Callable[[], Callable[[], None]], batches: int) -> Callable[[], None]:
    """Return a function that trains a batch, having trained some."""
    run = trainer()
    for _ in range(batches):
        run()
    return run
