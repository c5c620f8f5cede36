"""A builder of layer records, used as one writes a forward function: values go in, values come out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lasfast.ir import layers
from lasfast.ir.layers import ActivationKind, Layer, Op, PoolKind, Window


@dataclass(frozen=True)
class Value:
    """A value of the layer under construction, with its number and its channels (or features)."""

    number: int
    channels: int


class LayerBuilder:
    """A builder of one layer; each method appends ops and returns their output.

    >>> block = LayerBuilder("groups.0.1", channels=16)
    >>> y = block.conv_bn_act("1", block.input, 16, kernel_size=3)      # modules groups.0.1.conv1 and .bn1
    >>> y = block.conv_bn("2", y, 16, kernel_size=3)
    >>> y = block.activation(block.add(y, block.input))
    >>> layer = block.build()
    """

    def __init__(self, name: str, channels: int) -> None:
        self.name = name
        self.input = Value(0, channels)
        self._ops: list[Op] = []

    def conv(
        self,
        module: str,
        x: Value,
        out_channels: int,
        kernel_size: Window,
        stride: int = 1,
        *,
        padding: Window | None = None,
        groups: int = 1,
        bias: bool = False,
        dilation: int = 1,
        weight_bits: int | None = None,
    ) -> Value:
        """Append a convolution; the default padding keeps the size for odd kernels and stride 1."""
        if padding is None:
            both = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
            padding = (dilation * (both[0] // 2), dilation * (both[1] // 2))
        sizes = (x.channels, out_channels, kernel_size, stride, padding, groups)
        op = layers.Conv2d(self._module(module), *sizes, bias, dilation, weight_bits)
        return self._append(op, out_channels, x)

    def batch_norm(self, module: str, x: Value) -> Value:
        """Append a batch normalisation."""
        return self._append(layers.BatchNorm2d(self._module(module), x.channels), x.channels, x)

    def activation(self, x: Value, kind: ActivationKind = "relu") -> Value:
        """Append an activation."""
        return self._append(layers.Activation(kind), x.channels, x)

    def quantize(self, module: str, x: Value, bits: int) -> Value:
        """Append a quantization to `bits` bits; `module` owns the learned value at which it clips."""
        return self._append(layers.Quantize(self._module(module), bits), x.channels, x)

    def conv_bn(
        self,
        suffix: str,
        x: Value,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        weight_bits: int | None = None,
    ) -> Value:
        """Append a convolution `conv<suffix>` and its normalisation `bn<suffix>`."""
        y = self.conv(
            f"conv{suffix}", x, out_channels, kernel_size, stride, groups=groups, weight_bits=weight_bits
        )
        return self.batch_norm(f"bn{suffix}", y)

    def conv_bn_act(
        self,
        suffix: str,
        x: Value,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        kind: ActivationKind = "relu",
    ) -> Value:
        """Append convolution, normalisation and activation."""
        y = self.conv_bn(suffix, x, out_channels, kernel_size, stride, groups=groups)
        return self.activation(y, kind)

    def pool(self, x: Value, kind: PoolKind, kernel_size: int, stride: int, padding: int = 0) -> Value:
        """Append a max or average pooling."""
        return self._append(layers.Pool(kind, kernel_size, stride, padding), x.channels, x)

    def global_avg_pool(self, x: Value, *, keep_axes: bool = False) -> Value:
        """Append the mean over height and width, [C], or [C, 1, 1] with `keep_axes`."""
        return self._append(layers.GlobalAvgPool(keep_axes), x.channels, x)

    def add(self, x: Value, y: Value) -> Value:
        """Append x + y; y may have fewer channels, of which the missing ones count as zero."""
        return self._append(layers.Add(missing=x.channels - y.channels), x.channels, x, y)

    def multiply(self, x: Value, gate: Value) -> Value:
        """Append the product of x and a gate, a factor for each of its channels."""
        return self._append(layers.Multiply(), x.channels, x, gate)

    def squeeze_excite(
        self,
        module: str,
        x: Value,
        squeeze: int,
        *,
        kind: ActivationKind = "relu",
        gate: ActivationKind = "sigmoid",
    ) -> Value:
        """Append squeeze-and-excitation (Hu et al. 2018) through `squeeze` channels.

        The activation `kind` follows its 1x1 convolution `<module>.fc1`, and `gate` follows `<module>.fc2`;
        both convolutions have biases.
        """
        y = self.global_avg_pool(x, keep_axes=True)
        y = self.activation(self.conv(f"{module}.fc1", y, squeeze, 1, bias=True), kind)
        y = self.activation(self.conv(f"{module}.fc2", y, x.channels, 1, bias=True), gate)
        return self.multiply(x, y)

    def concat(self, x: Value, y: Value) -> Value:
        """Append the concatenation of the channels of x and y."""
        return self._append(layers.Concat(), x.channels + y.channels, x, y)

    def channel_slice(self, x: Value, start: int, channels: int) -> Value:
        """Append a slice of x: `channels` channels from `start` on."""
        return self._append(layers.Slice(start, channels), channels, x)

    def channel_split(self, x: Value, channels: int) -> tuple[Value, Value]:
        """Append two slices of x: its first `channels` channels, and the others."""
        rest = x.channels - channels
        return self.channel_slice(x, 0, channels), self.channel_slice(x, channels, rest)

    def channel_shuffle(self, x: Value, groups: int) -> Value:
        """Append a channel shuffle of x (see `layers.Shuffle`)."""
        return self._append(layers.Shuffle(groups), x.channels, x)

    def pad(self, x: Value, sides: tuple[int, int, int, int], value: float = 0.0) -> Value:
        """Append a margin on the sides (left, right, top, bottom) of x (see `layers.Pad`)."""
        return self._append(layers.Pad(sides, value), x.channels, x)

    def flatten(self, x: Value, features: int) -> Value:
        """Append a flattening to `features` = channels * height * width."""
        return self._append(layers.Flatten(), features, x)

    def linear(self, module: str, x: Value, out_features: int, *, bias: bool = True) -> Value:
        """Append a fully connected layer."""
        op = layers.Linear(self._module(module), x.channels, out_features, bias)
        return self._append(op, out_features, x)

    def dropout(self, x: Value, p: float) -> Value:
        """Append a dropout, or nothing if p is 0."""
        return self._append(layers.Dropout(p), x.channels, x) if p else x

    def opaque(
        self,
        module: str,
        x: Value,
        out_channels: int,
        stride: int = 1,
        *,
        params: int = 0,
        flops_per_position: int = 0,
        flops_per_image: int = 0,
    ) -> Value:
        """Append a call of a module of the user's own (see `layers.Opaque`)."""
        costs = (params, flops_per_position, flops_per_image)
        op = layers.Opaque(self._module(module), out_channels, stride, *costs)
        return self._append(op, out_channels, x)

    def build(self) -> Layer:
        """Return the layer; its output is the value appended last."""
        return Layer(self.name, tuple(self._ops))

    def _module(self, name: str) -> str:
        return f"{self.name}.{name}"

    def _append(self, op: Op, channels: int, *inputs: Value) -> Value:
        previous = (len(self._ops),)
        numbers = tuple(value.number for value in inputs)
        # Equal layers must be equal records: reading the value just before is always the empty tuple.
        self._ops.append(op if numbers == previous else replace(op, inputs=numbers))
        return Value(len(self._ops), channels)
