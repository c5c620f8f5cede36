"""The layer records, the one description of a network that everything else reads.

A `Layer` is a short straight-line program: value 0 is the layer's input, value k is the output of its k-th
op, and the last value is the layer's output. An op with weights names the module that owns them and says
how many of its channels are in use: fewer than the module has select a slice,
`weight[:out_channels, :in_channels]`. Therefore **equal records compute equal functions**, which prefix
sharing relies on.

Records are plain data and import no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

from lasfast.core.checks import check_bits

Shape = tuple[int, ...]
"""The shape of a value for one image, without the batch: `(channels, height, width)` or `(features,)`."""

ActivationKind = Literal["relu", "relu6", "hardswish", "swish", "sigmoid", "hardsigmoid"]
PoolKind = Literal["max", "avg"]
Window = int | tuple[int, int]
"""A size along both axes of an image, or one for the height and one for the width."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation of a layer.

    `inputs` are the numbers of the values that it reads; if empty, it reads the value just before.
    """

    arity: ClassVar[int] = 1
    inputs: tuple[int, ...] = ()

    def output_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the output for these input shapes; ValueError where they do not fit."""
        return shapes[0]


@dataclass(frozen=True)
class Conv2d(Op):
    """Convolution, [N, in_channels, H, W] -> [N, out_channels, H', W'], with the same stride on both axes.

    The kernel's taps are `dilation` positions apart; for a 1x1 kernel, which has one, that is always 1. With
    `weight_bits`, the slice of the weight in use is quantized to that many bits (`ops.dorefa`).
    """

    module: str
    in_channels: int
    out_channels: int
    kernel_size: Window
    stride: int = 1
    padding: Window = 0
    groups: int = 1
    bias: bool = False
    dilation: int = 1
    weight_bits: int | None = None

    def __post_init__(self) -> None:
        if self.weight_bits is not None:
            check_bits("weight_bits", self.weight_bits)
        # Equal layers must be equal records.
        object.__setattr__(self, "kernel_size", _square_or_both(self.kernel_size))
        object.__setattr__(self, "padding", _square_or_both(self.padding))
        if self.kernel_size == 1:
            # So that it runs natively. PyTorch's own (2.14) crashes in bf16, in channels_last.
            object.__setattr__(self, "dilation", 1)

    def output_shape(self, *shapes: Shape) -> Shape:
        """Follow the usual rule, (H + 2 padding - extent) // stride + 1; extent is the dilated kernel's."""
        _expect_channels(self.module, shapes[0], self.in_channels)
        rows, columns = (self.dilation * (taps - 1) + 1 for taps in self.kernel)
        height, width = _window(self.module, shapes[0], (rows, columns), self.stride, self.padding)
        return (self.out_channels, height, width)

    @property
    def kernel(self) -> tuple[int, int]:
        """The kernel's height and width."""
        return _both(self.kernel_size)


@dataclass(frozen=True)
class BatchNorm2d(Op):
    """Batch normalisation over [N, channels, H, W], with a scale and a shift where it is `affine`."""

    module: str
    channels: int
    eps: float = 1e-5
    affine: bool = True

    def output_shape(self, *shapes: Shape) -> Shape:
        """Keep the shape."""
        _expect_channels(self.module, shapes[0], self.channels)
        return shapes[0]


@dataclass(frozen=True)
class Activation(Op):
    """An elementwise activation."""

    kind: ActivationKind = "relu"


@dataclass(frozen=True)
class Pool(Op):
    """Max or average pooling. Padding does not count, unless an average `counts_padding` as zeros."""

    kind: PoolKind
    kernel_size: int
    stride: int
    padding: int = 0
    counts_padding: bool = False

    def output_shape(self, *shapes: Shape) -> Shape:
        """Follow the usual rule, (H + 2 padding - kernel) // stride + 1."""
        if 2 * self.padding > self.kernel_size:
            raise ValueError(
                f"{self.kind} pool: padding must be at most half of kernel_size {self.kernel_size}, got "
                f"{self.padding}"
            )
        height, width = _window(f"{self.kind} pool", shapes[0], self.kernel_size, self.stride, self.padding)
        return (shapes[0][0], height, width)


@dataclass(frozen=True)
class GlobalAvgPool(Op):
    """The mean over height and width, [N, C, H, W] -> [N, C], or [N, C, 1, 1] with `keep_axes`."""

    keep_axes: bool = False

    def output_shape(self, *shapes: Shape) -> Shape:
        """Keep the channels."""
        channels = _image(type(self).__name__, shapes[0])[0]
        return (channels, 1, 1) if self.keep_axes else (channels,)


@dataclass(frozen=True)
class Add(Op):
    """The sum of two values with the same height and width.

    The second value has `missing` fewer channels than the first; the missing ones count as zero, as in the
    parameter-free shortcut "A" of He et al. 2016, section 3.3.
    """

    arity: ClassVar[int] = 2
    missing: int = 0

    def output_shape(self, *shapes: Shape) -> Shape:
        """Take the first input's shape."""
        first, second = shapes
        if first[1:] != second[1:] or second[0] + self.missing != first[0]:
            raise ValueError(f"add: cannot add a value of shape {second} to one of shape {first}")
        if self.missing:
            _image("add of fewer channels", first)
        return first


@dataclass(frozen=True)
class Multiply(Op):
    """The product of a value, [N, C, H, W], and a gate, [N, C] or [N, C, 1, 1]: a factor for each channel.

    Squeeze-and-excitation ends with it (Hu et al. 2018, Eq. 4).
    """

    arity: ClassVar[int] = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        """Take the first input's shape."""
        value, gate = shapes
        channels = _image("multiply", value)[0]
        if gate not in ((channels,), (channels, 1, 1)):
            raise ValueError(
                f"multiply: a value of shape {value} needs one factor for each channel, got {gate}"
            )
        return value


@dataclass(frozen=True)
class Concat(Op):
    """Concatenation of channels, [N, C1, H, W], [N, C2, H, W] -> [N, C1 + C2, H, W]."""

    arity: ClassVar[int] = 2

    def output_shape(self, *shapes: Shape) -> Shape:
        """Add the channels."""
        first, second = shapes
        if _image("concat", first)[1:] != _image("concat", second)[1:]:
            raise ValueError(
                f"concat: values of shapes {first} and {second} differ in more than their channels"
            )
        return (first[0] + second[0], *first[1:])


@dataclass(frozen=True)
class Shuffle(Op):
    """Channel shuffle (Zhang et al. 2018, section 3.1), which transposes the channels [groups, C / groups].

    Output channel j * groups + g is input channel g * (C / groups) + j. With C / 2 groups, the even
    channels come first and the odd ones follow.
    """

    groups: int

    def output_shape(self, *shapes: Shape) -> Shape:
        """Keep the shape."""
        if self.groups < 1 or _image("shuffle", shapes[0])[0] % self.groups:
            raise ValueError(f"shuffle: a value of shape {shapes[0]} has no {self.groups} equal groups")
        return shapes[0]


@dataclass(frozen=True)
class Slice(Op):
    """A slice of `channels` channels from `start` on, [N, C, H, W] -> [N, channels, H, W]."""

    start: int
    channels: int

    def output_shape(self, *shapes: Shape) -> Shape:
        """Replace the channels."""
        end = self.start + self.channels
        if not 0 <= self.start < end <= _image("slice", shapes[0])[0]:
            raise ValueError(f"slice: a value of shape {shapes[0]} has no channels {self.start} to {end - 1}")
        return (self.channels, *shapes[0][1:])


@dataclass(frozen=True)
class Pad(Op):
    """A margin of one value on the sides (left, right, top, bottom) of an image, [N, C, H, W].

    A negative size cuts that many columns or rows off. So (-1, 1, -1, 1) moves an image up and left by one:
    subsampling with stride 2 then reads the odd positions, where subsampling the image itself reads the even.
    """

    sides: tuple[int, int, int, int]
    value: float = 0.0

    def output_shape(self, *shapes: Shape) -> Shape:
        """Add the margins to height and width."""
        channels, height, width = _image("pad", shapes[0])
        left, right, top, bottom = self.sides
        padded = (channels, height + top + bottom, width + left + right)
        if min(padded) < 1:
            raise ValueError(f"pad: sides {self.sides} leave nothing of a value of shape {shapes[0]}")
        return padded


@dataclass(frozen=True)
class Flatten(Op):
    """Flattening, [N, C, H, W] -> [N, C * H * W]."""

    def output_shape(self, *shapes: Shape) -> Shape:
        """Multiply the sizes."""
        channels, height, width = _image("flatten", shapes[0])
        return (channels * height * width,)


@dataclass(frozen=True)
class Linear(Op):
    """A fully connected layer, [N, in_features] -> [N, out_features]."""

    module: str
    in_features: int
    out_features: int
    bias: bool = True

    def output_shape(self, *shapes: Shape) -> Shape:
        """Replace the features."""
        if shapes[0] != (self.in_features,):
            raise ValueError(
                f"{self.module}: expects {self.in_features} features, got a value of shape {shapes[0]}"
            )
        return (self.out_features,)


@dataclass(frozen=True)
class Dropout(Op):
    """Dropout: in training, it sets each element to zero with probability `p`; otherwise it does nothing."""

    p: float = 0.5


@dataclass(frozen=True)
class Quantize(Op):
    """Quantization to one of 2^bits values from 0 to the module's learned `alpha` (`ops.pact`)."""

    module: str
    bits: int

    def __post_init__(self) -> None:
        check_bits("bits", self.bits)


@dataclass(frozen=True)
class Opaque(Op):
    """A module of the user's own, which torch runs in every backend.

    It must treat images independently of each other (no batch statistics); it may write to its input, which
    is a copy. `out_channels` and `stride` say its output's shape; or `shape` does, for images of one size
    alone. Costs read the number of its weights (`params`) and its multiply-adds: `flops_per_position` for
    each position of the output, plus `flops_per_image`.
    """

    module: str
    out_channels: int
    stride: int = 1
    params: int = 0
    flops_per_position: int = 0
    flops_per_image: int = 0
    shape: Shape | None = None

    def output_shape(self, *shapes: Shape) -> Shape:
        """Divide height and width by the stride, rounding up, unless the shape is known."""
        if self.shape is not None:
            return self.shape
        return (self.out_channels, *(-(-size // self.stride) for size in shapes[0][1:]))


@dataclass(frozen=True)
class Code(Op):
    """A piece of a network's own code that no other op says, which torch runs in every backend.

    It must treat images independently of each other and change none of its inputs.

    Attributes:
        source: Python text that defines `code(x0, p0, ...)`, or `code(x0, x1, p0, ...)` where it `reads` two
            values: a function of these, with their batch of images, and of `tensors`.
        reads: the number of values that it reads, 1 or 2.
        tensors: the dotted names of the parameters and buffers that it reads.
        shape: its output's shape, for images of one size alone; None where it keeps the first value's shape.
        params: the number of weights in `tensors`, which costs count.
    """

    MOST_READS: ClassVar[int] = 2
    source: str
    reads: int = 1
    tensors: tuple[str, ...] = ()
    shape: Shape | None = None
    params: int = 0

    @property
    def arity(self) -> int:  # type: ignore[override]
        """The number of values that it reads."""
        return self.reads

    def output_shape(self, *shapes: Shape) -> Shape:
        """Keep the first value's shape, unless another one is known."""
        return shapes[0] if self.shape is None else self.shape


@dataclass(frozen=True)
class Layer:
    """A straight-line program of ops with a name, immutable and hashable.

    `input_shape` is the one shape of its input that it holds for, where it was read off a network that may do
    otherwise with others; None where it holds for any that fits.

    Two fields say nothing of the function, and so do not count where layers are compared. `branches` are the
    values that drop path may drop in training; None where these are residual branches. `carried` is how many
    of the first channels of the output are only handed on, for a later layer to read.
    """

    _hash: ClassVar[int]
    name: str
    ops: tuple[Op, ...]
    input_shape: Shape | None = field(default=None, repr=False)
    branches: tuple[int, ...] | None = field(default=None, repr=False, compare=False)
    carried: int = field(default=0, repr=False, compare=False)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Layer], tuple[Any, ...]]:
        # Python salts the hashes of strings in each process, so a pickle must not carry the hash.
        return Layer, (self.name, self.ops, self.input_shape, self.branches, self.carried)

    def __post_init__(self) -> None:
        # Prefix trees and caches look layers up all the time; hashing all ops each time is slow.
        object.__setattr__(self, "_hash", hash((self.name, self.ops)))
        if not self.ops:
            raise ValueError(f"layer {self.name!r} has no ops")
        norms = [op.module for op in self.ops if isinstance(op, BatchNorm2d)]
        if len(set(norms)) < len(norms):
            raise ValueError(
                f"layer {self.name!r}: batch norms must be of different modules, since each has its own "
                f"statistics, got {', '.join(norms)}"
            )
        for number, (op, sources) in enumerate(self.steps(), start=1):
            if len(sources) != op.arity or not all(0 <= source < number for source in sources):
                raise ValueError(
                    f"layer {self.name!r}: op {number}, {type(op).__name__}, reads values {sources}; "
                    f"expected {op.arity} of the values 0 to {number - 1}"
                )

    def steps(self) -> Iterator[tuple[Op, tuple[int, ...]]]:
        """Yield each op, in order, with the numbers of the values that it reads."""
        for number, op in enumerate(self.ops):
            yield op, op.inputs or (number,)

    def shapes(self, input_shape: Shape) -> tuple[Shape, ...]:
        """Return the shape of every value, the input's first; ValueError where an op does not fit."""
        return _shapes(self, tuple(input_shape))

    def check_input(self, shape: Shape) -> None:
        """Raise ValueError where the layer does not hold for inputs of this shape, though they may fit."""
        if self.input_shape not in (None, shape):
            raise ValueError(
                f"layer {self.name!r}: it was read for inputs of shape {self.input_shape} and may do "
                f"otherwise with others, got {shape}"
            )


@lru_cache(maxsize=2**16)  # many architectures share few layers
def _shapes(layer: Layer, input_shape: Shape) -> tuple[Shape, ...]:
    layer.check_input(input_shape)
    shapes = [input_shape]
    for op, sources in layer.steps():
        try:
            shapes.append(op.output_shape(*(shapes[source] for source in sources)))
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from None
    return tuple(shapes)


Path = tuple[Layer, ...]
"""The layers that an architecture runs, in order."""


def path_shapes(path: Path, input_shape: Shape) -> Iterator[tuple[Layer, tuple[Shape, ...]]]:
    """Yield each layer of a path with the shapes of all its values, the input's first.

    Raises ValueError where images of the shape `input_shape` do not fit a layer, which it names.
    """
    shape = input_shape
    for layer in path:
        try:
            shapes = layer.shapes(shape)
        except ValueError as error:
            raise misfit(input_shape, error) from None
        yield layer, shapes
        shape = shapes[-1]


def with_prefix(layer: Layer, prefix: str) -> Layer:
    """Return a layer whose ops name modules and tensors with a prefix, such as "network."."""

    def prefixed(op: Any) -> Any:
        if isinstance(op, Code):
            return replace(op, tensors=tuple(prefix + name for name in op.tensors))
        return replace(op, module=prefix + op.module) if hasattr(op, "module") else op

    return replace(layer, ops=tuple(map(prefixed, layer.ops)))


def misfit(image_shape: Shape, error: ValueError) -> ValueError:
    """Return the error of a layer that does not fit its input, with the images of which this comes."""
    return ValueError(f"images of shape {tuple(image_shape)} do not fit this network: {error}")


def _image(what: str, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise ValueError(f"{what}: expects a value of shape (channels, height, width), got {shape}")
    return shape


def _expect_channels(what: str, shape: Shape, channels: int) -> None:
    if _image(what, shape)[0] != channels:
        raise ValueError(f"{what}: expects {channels} channels, got a value of shape {shape}")


def _window(what: str, shape: Shape, kernel_size: Window, stride: int, padding: Window) -> tuple[int, int]:
    _, height, width = _image(what, shape)
    (rows, columns), (above, beside) = _both(kernel_size), _both(padding)
    if height + 2 * above < rows or width + 2 * beside < columns:
        raise ValueError(
            f"{what}: a {rows}x{columns} window with padding {padding} does not fit in an input of shape "
            f"{shape}"
        )
    return (height + 2 * above - rows) // stride + 1, (width + 2 * beside - columns) // stride + 1


def _both(size: Window) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _square_or_both(size: Window) -> Window:
    height, width = _both(size)
    return height if height == width else (height, width)
