"""Cases of training: the fused operators forward and backward, as CUDA graphs, too, and the update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine.native_backend import EXECUTORS
from lasfast.ops import bn_act, conv_bn_act, sliced_conv2d
from lasfast.ops.activations import FUNCTIONS
from lasfast.ops.sgd import Index, Sgd, SgdRule, sgd_reference
from lasfast.runtime.cuda_graphs import Replays
from lasfast.runtime.kernels import has_warpgroups
from lasfast.runtime.precision import torch_dtype
from lasfast.selfcheck.case import Case, DisagreementError, multiplied_as, native_ways

LAST, PLANES = torch.channels_last, torch.contiguous_format
NEAR = 0.1  # so near to a kink of an activation, rounding may decide on which side a value is
SMOOTH = 0.1  # the change of a derivative, from so much before a value to so much behind it, without a kink


@dataclass(frozen=True)
class Shape:
    """The sizes of a convolution, whose weight is partly active, and what follows it."""

    input: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    c_out: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    residual: int = 0  # channels of what is added
    activation: str = "none"


DENSE = (
    Shape((9, 16, 13, 10), (40, 24, 3, 3), 24, padding=1, residual=24, activation="relu"),
    Shape((9, 11, 12, 9), (13, 11, 1, 1), 13, stride=2, residual=7, activation="swish"),
    Shape((9, 3, 19, 18), (16, 3, 7, 7), 16, stride=2, padding=3, activation="relu6"),
    Shape((3, 64, 9, 9), (72, 64, 3, 3), 72, padding=1, activation="hardsigmoid"),
    Shape((5, 21, 9, 8), (37, 21, 3, 3), 37, padding=1),
)
DEPTHWISE = (
    Shape((9, 16, 13, 12), (20, 1, 3, 3), 16, padding=1, groups=16, residual=5, activation="hardswish"),
    Shape((9, 11, 12, 13), (11, 1, 5, 5), 11, stride=2, padding=2, groups=11, activation="sigmoid"),
    Shape((5, 37, 9, 9), (37, 1, 7, 7), 37, padding=3, groups=37),
)
WIDE = (
    Shape((16, 64, 32, 32), (64, 64, 3, 3), 64, padding=1),
    Shape((16, 64, 32, 32), (128, 64, 3, 3), 128, padding=1),
    Shape((16, 58, 32, 32), (118, 58, 1, 1), 118),
)
"""On CUDA, tiles of 64 and 128 channels are taken where there are so many positions, as in real training."""
GROUPED = Shape((5, 12, 9, 8), (18, 4, 3, 3), 18, padding=1, groups=3)


def training_cases(device: torch.device) -> Iterator[Case]:
    """Give cases of convolutions with batch norm and without, of batch norm alone, and of the update."""
    cuda = EXECUTORS[device.type].cuda
    for precision in ("fp32", "bf16", *(("TF32",) if cuda else ())):
        case = partial(_case, device, cuda, precision)
        yield case("conv + batch norm + sum + activation", DENSE, Layer.fused, LAST)
        if cuda:
            yield case("wide conv + batch norm", WIDE, Layer.fused, LAST)
        if precision == "TF32":
            continue  # of dense convolutions in channels_last alone
        yield case("depthwise conv + batch norm + sum + activation", DEPTHWISE, Layer.fused, LAST)
        yield case("conv, channels_last", (*DENSE, *DEPTHWISE), Layer.alone, LAST)
        yield case("conv, contiguous", (*DENSE, *DEPTHWISE, GROUPED), Layer.alone, PLANES)
        yield case("batch norm in evaluation", DENSE[:2], Layer.evaluated, LAST)
    for name, rule in {
        "SGD on slices": SgdRule(0.9, nesterov=True, weight_decay=0.1),
        "SGD on slices with clipping": SgdRule(weight_decay=0.1, clip_norm=1.0),
    }.items():
        yield Case(
            f"{name}, fp32",
            ours=partial(_updated, device, rule, native=True),
            truth=partial(_updated, device, rule, native=False),
            theirs=list,
            precision="fp32",
            ways={"CUDA": {}} if cuda else {"CPU": {}},
        )


class Layer:
    """Runs a shape, with tensors of its own, forward and backward by lasfast and by PyTorch.

    Values are of the precision that is checked, weights float32. Results are the output, the running
    statistics, and the gradients of x, weight, batch norm's weight and bias, and residual.
    """

    def __init__(
        self, shape: Shape, dtype: torch.dtype, device: torch.device, layout: torch.memory_format
    ) -> None:
        self.shape = shape
        generator = torch.Generator().manual_seed(0)

        def values(*sizes: int) -> Tensor:
            return torch.randn(sizes, dtype=torch.float32, generator=generator)

        batch, self.c_in, height, width = shape.input
        kernel, step = shape.weight[2], shape.stride
        after = tuple((size + 2 * shape.padding - kernel) // step + 1 for size in (height, width))
        channels = shape.c_out
        self.x = values(*shape.input).to(device, dtype, memory_format=layout)
        self.grad = values(batch, channels, *after).to(device, dtype, memory_format=layout)
        residual = values(batch, max(1, shape.residual), *after).to(device, dtype, memory_format=layout)
        self.residual = residual if shape.residual else None
        self.weight = values(*shape.weight).to(device)
        scale, bias, mean = (values(channels).to(device) for _ in range(3))
        self.affine = scale, bias
        self.running = mean, torch.ones_like(mean)

    def fused(self, leaves: Sequence[Tensor], running: Sequence[Tensor]) -> Tensor:
        """Return the output of the training operator that fuses all."""
        x, weight, scale, bias, *residual = leaves
        one = self.shape
        return conv_bn_act(
            x,
            weight,
            running[0],
            running[1],
            scale,
            bias,
            residual[0] if residual else None,
            c_out=one.c_out,
            stride=one.stride,
            padding=one.padding,
            groups=one.groups,
            training=True,
            activation=one.activation,
        )

    def alone(self, leaves: Sequence[Tensor], running: Sequence[Tensor]) -> Tensor:
        """Return the output of the convolution alone."""
        one = self.shape
        x, weight = leaves[:2]
        return sliced_conv2d(x, weight, self.c_in, one.c_out, one.stride, one.padding, one.groups)

    def evaluated(self, leaves: Sequence[Tensor], running: Sequence[Tensor]) -> Tensor:
        """Return the output of the convolution and a batch norm by running statistics."""
        y = self.alone(leaves, running)
        return bn_act(y, *running, *leaves[2:], training=False, activation=self.shape.activation)

    def plain(
        self, ours: Callable[..., Tensor], leaves: Sequence[Tensor], running: Sequence[Tensor]
    ) -> Tensor:
        """Return PyTorch's output for `ours`, one of the three above."""
        y = self.activated(ours, leaves, running)
        return y if ours is Layer.alone else FUNCTIONS[self.shape.activation](y)

    def activated(
        self, ours: Callable[..., Tensor], leaves: Sequence[Tensor], running: Sequence[Tensor]
    ) -> Tensor:
        """Return what PyTorch's activation is applied to for `ours`."""
        x, weight, scale, bias, *residual = leaves
        one = self.shape
        active = weight[: one.c_out, : self.c_in // one.groups].to(x.dtype)
        y = F.conv2d(x, active, None, one.stride, one.padding, 1, one.groups)
        if ours is Layer.alone:
            return y
        y = F.batch_norm(y, running[0], running[1], scale, bias, training=ours is Layer.fused)
        for one_more in residual:
            y = y + F.pad(one_more, (0, 0, 0, 0, 0, y.shape[1] - one_more.shape[1]))
        return y

    def without_kinks(self, ours: Callable[..., Tensor]) -> Layer:
        """Let no gradient come in where the activation has a kink nearby; return the layer.

        There, the gradient of a value that is rounded rightly may be another one altogether.
        """
        if ours is not Layer.alone:
            leaves = [one.double() for one in self._leaves()]
            y = self.activated(ours, leaves, [one.double() for one in self.running])
            before, behind = (self._derivative(y + by) for by in (-NEAR, NEAR))
            self.grad = self.grad.masked_fill((before - behind).abs() > SMOOTH, 0.0)
        return self

    def _leaves(self) -> list[Tensor]:
        """Return what has gradients; a residual is last, where there is one."""
        return [self.x, self.weight, *self.affine, *([] if self.residual is None else [self.residual])]

    def _derivative(self, y: Tensor) -> Tensor:
        """Return the activation's derivative at `y`."""
        y.requires_grad_()
        (derivative,) = torch.autograd.grad(FUNCTIONS[self.shape.activation](y).sum(), y)
        return derivative

    def results(
        self,
        run: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor],
        values: torch.dtype | None = None,
        others: torch.dtype = torch.float32,
    ) -> list[Tensor]:
        """Run forward and backward, images and their gradients in one dtype, all else in another."""
        dtypes = (values or self.x.dtype, others, others, others, values or self.x.dtype)
        pairs = zip(self._leaves(), dtypes, strict=False)
        leaves = [one.to(dtype).detach().requires_grad_() for one, dtype in pairs]
        running = [one.to(others, copy=True) for one in self.running]
        y = run(leaves, running)
        gradients = torch.autograd.grad(y, leaves, self.grad.to(y.dtype), allow_unused=True)
        return [y.detach(), *running, *(one for one in gradients if one is not None)]


def _case(
    device: torch.device,
    cuda: bool,
    precision: str,
    name: str,
    shapes: Sequence[Shape],
    operator: Callable[..., Tensor],
    layout: torch.memory_format,
) -> Case:
    dtype = torch_dtype("bf16" if precision == "bf16" else "fp32")
    layers = [Layer(shape, dtype, device, layout).without_kinks(operator) for shape in shapes]

    def ours() -> list[Tensor]:
        with multiplied_as(precision):
            return [one for layer in layers for one in _repeated(device, layer, partial(operator, layer))]

    def plain(values: torch.dtype, others: torch.dtype) -> list[Tensor]:
        return [
            one for layer in layers for one in layer.results(partial(layer.plain, operator), values, others)
        ]

    ways = native_ways(cuda)
    if cuda and precision == "bf16" and has_warpgroups(device):
        ways["warpgroups"] = {"LASFAST_CHOICE": "warpgroups"}
    return Case(
        f"{name}, {precision}",
        ours,
        truth=partial(plain, torch.float64, torch.float64),
        theirs=partial(plain, torch.bfloat16, torch.float32),
        precision=precision,
        ways=ways,
    )


def _repeated(device: torch.device, layer: Layer, run: Callable[..., Tensor]) -> list[Tensor]:
    """Return the results of a run, which two more have to equal; on a GPU these replay a CUDA graph."""
    replays = Replays(device, enabled=device.type == "cuda")
    first, *others = ([one.clone() for one in replays.run("", partial(layer.results, run))] for _ in range(3))
    for other in others:
        if not all(map(torch.equal, first, other)):
            raise DisagreementError("other bits when run again, as a CUDA graph on a GPU")
    return first


def _updated(device: torch.device, rule: SgdRule, *, native: bool) -> list[Tensor]:
    """Return weights and momenta after two updates of parts of them."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((40, 24, 3, 3), (33, 17), (5,))
    parts: list[list[Index]] = [
        [(slice(0, 7), slice(24)), (slice(7, 19), slice(11))],
        [()],
        [(slice(0, 3),)],
    ]
    decays = [True, False, True]
    weights, momenta, *gradients = (
        [torch.randn(size, dtype=torch.float32, generator=generator).to(device) for size in sizes]
        for _ in range(4)
    )
    if native:
        sgd = Sgd(weights, momenta if rule.momentum else None, parts, rule, decays)
        for gradient in gradients:
            sgd.update(gradient, 0.3, 0.5)
        return [*weights, *momenta]
    weights, momenta, *gradients = (
        [one.double() for one in tensors] for tensors in (weights, momenta, *gradients)
    )
    for gradient in gradients:
        tensors = zip(weights, gradient, momenta, parts, strict=True)
        every = [(w[at], g[at], m[at] if rule.momentum else None) for w, g, m, each in tensors for at in each]
        sgd_reference(every, rule, 0.3, 0.5, [True, True, False, True])  # a part for each
    return [*weights, *momenta]
