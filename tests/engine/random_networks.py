"""Random networks: layer records in which every op may read the values of every other.

An op is drawn with its sizes and the values that it reads; where the records say that these do not fit,
another is drawn. So whatever the records allow comes up sooner or later, in any order.
"""

import random
from contextlib import suppress
from dataclasses import replace
from math import prod

from torch import nn

from lasfast.ir import layers
from lasfast.ir.activations import ACTIVATIONS
from lasfast.ir.layers import Layer, Path, Shape
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import Supernet
from tests.conftest import shaken

CHANNELS = (1, 3, 5, 8, 16, 17)
SIZES = (1, 2, 5, 7, 8, 9, 11)
MOST_ELEMENTS = 3000
"""Of a value of one image: larger ones would only take time."""
KINDS = sorted(ACTIVATIONS.keys() - {"none"})


class RandomNetwork(Supernet):
    """Random paths that begin in common and end anywhere; of layers of one depth, slices of the same weights.

    `image_shape` is (channels, height, width) of what it reads.
    """

    def __init__(self, seed: int, *, quantized: bool = True) -> None:
        self.rng = rng = random.Random(seed)
        classes, channels = rng.choice((1, 3, 7)), rng.choice(CHANNELS[:4])
        super().__init__(LayerAssignmentSpace(1, 1), num_classes=classes, in_channels=channels)
        self.image_shape = (channels, rng.choice(SIZES), rng.choice(SIZES))
        self.widths = rng.sample(CHANNELS, 3)  # few of them, so that values often fit each other
        self.quantized = quantized
        self.paths: list[Path] = []
        self.names = 0
        self.grow((), self.image_shape, rng.randint(1, 4))
        self.create_modules(*self.paths)
        if not list(self.parameters()):
            self.add_opaque("unused", nn.Linear(1, 1))  # which says where the network is
        shaken(self)

    def path(self, architecture) -> Path:
        return self.paths[0]

    def grow(self, path: Path, shape: Shape, depth: int) -> None:
        """Add paths that begin so: some end here, others go on for at most `depth` layers."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            layer = RandomLayer(self, len(path), shape)
            if depth == 0 or self.rng.random() < 0.25:
                self.paths.append((*path, layer.classifier()))
                continue
            built = layer.body(self.rng.randint(1, 6))
            self.grow((*path, built), built.shapes(shape)[-1], depth - 1)

    def new_name(self) -> int:
        self.names += 1
        return self.names


class RandomLayer:
    """A layer in the making: its values' shapes, and methods that each append a random op.

    These raise ValueError where the op does not fit the values that were drawn for it.
    """

    def __init__(self, net: RandomNetwork, depth: int, shape: Shape) -> None:
        self.net, self.rng, self.depth = net, net.rng, depth
        self.ops: list[layers.Op] = []
        self.shapes = [shape]
        self.norms = 0

    def body(self, steps: int) -> Layer:
        """Return the layer after so many ops, or some more."""
        drawn = self.rng.choices(*zip(*_OPS.items(), strict=True), k=20 * steps)
        while len(self.ops) < steps and drawn:
            self.attempt(drawn.pop())
        if not self.ops:
            self.append(layers.Dropout(0.3))
        return Layer(f"layers.{self.net.new_name()}", tuple(self.ops))

    def classifier(self) -> Layer:
        """Return a layer that ends in logits, which ops of any kind compute."""
        classes = self.net.num_classes
        self.body(self.rng.randint(0, 3))
        flat = len(self.shapes[-1]) == 1
        if not flat and self.rng.random() < 0.7:
            keep_axes = self.rng.random() < 0.7
            self.append(layers.GlobalAvgPool(keep_axes))
            flat = not keep_axes
        elif not flat and self.shapes[-1][1:] != (1, 1):
            self.append(layers.Flatten())
            flat = True
        channels = self.shapes[-1][0]
        if flat:
            bias = self.rng.random() < 0.5
            self.append(layers.Linear(f"linear{bias}", channels, classes, bias))
        elif channels != classes or self.rng.random() < 0.5:
            bias = self.rng.random() < 0.5
            self.append(layers.Conv2d(f"last{bias}", channels, classes, 1, bias=bias))
        for _ in range(self.rng.choice((0, 0, 1, 2, 3))):
            before = self.ops[:], self.shapes[:]
            self.attempt(self.rng.choice(list(_OPS)))
            if self.shapes[-1] != before[1][-1]:
                self.ops, self.shapes = before
        if len(self.shapes[-1]) == 3:
            self.append(layers.Flatten())
        return Layer(f"layers.{self.net.new_name()}", tuple(self.ops))

    def attempt(self, method) -> None:
        """Append an op, unless it does not fit."""
        with suppress(ValueError):
            method(self)

    def append(self, op: layers.Op, *sources: int) -> int:
        """Append an op that reads these values, or else the last one; return its value's number."""
        previous = len(self.ops)
        sources = sources or (previous,)
        shape = op.output_shape(*(self.shapes[source] for source in sources))
        if prod(shape) > MOST_ELEMENTS:
            raise ValueError("too large")
        self.ops.append(op if sources == (previous,) else replace(op, inputs=sources))
        self.shapes.append(shape)
        return len(self.ops)

    def any(self) -> int:
        """Return the number of a value, that of the last one more often."""
        return self.one_of(range(len(self.shapes)))

    def one_of(self, numbers) -> int:
        numbers = list(numbers)
        if not numbers:
            raise ValueError("there is no such value")
        return numbers[-1] if self.rng.random() < 0.5 else self.rng.choice(numbers)

    def where(self, fits) -> int:
        """Return the number of a value whose shape fits."""
        return self.one_of(number for number, shape in enumerate(self.shapes) if fits(shape))

    def image(self) -> int:
        return self.where(lambda shape: len(shape) == 3)

    def convolution(self) -> None:
        rng, x = self.rng, self.image()
        channels = self.shapes[x][0]
        kernel = rng.choice((1, 1, 1, 2, 3, 3, 3, 4, 5, 12))
        dilation = rng.choice((1, 1, 1, 1, 2))
        stride = rng.choice((1, 1, 1, 2, 3))
        padding = rng.choice((0, kernel // 2, kernel // 2, kernel - 1, kernel))
        if rng.random() < 0.1:
            kernel, padding, dilation = rng.choice((((1, 3), (0, 1), 1), ((5, 1), (2, 0), 1), ((2, 3), 1, 1)))
        form = rng.choice(("dense", "dense", "depthwise", "grouped"))
        out, groups = rng.choice(self.net.widths), 1
        if form == "depthwise":
            out = groups = channels
        elif form == "grouped":
            groups = next(n for n in [*rng.sample((2, 3, 4, 5, 8), 5), 1] if channels % n == 0)
            out = groups * rng.choice((1, 2, 3))
            form = f"grouped{groups}"
        bias = rng.random() < 0.3
        bits = rng.choice((None, None, None, None, 1, 3)) if self.net.quantized else None
        name = f"convs.{form}{kernel}_{stride}_{padding}_{dilation}_{bias}_{rng.randint(0, 1)}".replace(
            ", ", "x"
        )
        self.append(
            layers.Conv2d(name, channels, out, kernel, stride, padding, groups, bias, dilation, bits), x
        )

    def norm(self) -> None:
        x, affine, eps = self.image(), self.rng.random() < 0.8, self.rng.choice((1e-5, 1e-3))
        self.norms += 1
        name = f"norms.{self.depth}_{self.norms}_{affine}_{str(eps)[-1]}"
        self.append(layers.BatchNorm2d(name, self.shapes[x][0], eps, affine), x)

    def activation(self) -> None:
        self.append(layers.Activation(self.rng.choice(KINDS)), self.any())

    def pool(self) -> None:
        kernel = self.rng.choice((1, 2, 3, 4))
        padding = self.rng.randint(0, kernel // 2)
        stride = self.rng.choice((1, 1, 2, 3))
        self.append(layers.Pool(self.rng.choice(("max", "avg")), kernel, stride, padding), self.image())

    def global_pool(self) -> None:
        self.append(layers.GlobalAvgPool(self.rng.random() < 0.6), self.image())

    def linear(self) -> None:
        x, bias = self.where(lambda shape: len(shape) == 1), self.rng.random() < 0.5
        self.append(
            layers.Linear(f"linear{bias}", *self.shapes[x], self.rng.choice(self.net.widths), bias), x
        )

    def sum(self) -> None:
        x = self.any()
        first = self.shapes[x]
        y = self.where(lambda shape: shape[1:] == first[1:] and shape[0] <= first[0])
        self.append(layers.Add(missing=first[0] - self.shapes[y][0]), x, y)

    def same_sum(self) -> None:
        """Values of one shape are rarer, and what networks add."""
        x = self.any()
        others = [n for n, shape in enumerate(self.shapes) if shape == self.shapes[x] and n != x]
        self.append(layers.Add(), *self.rng.sample((x, self.one_of(others)), 2))

    def gate(self) -> None:
        x = self.image()
        channels = self.shapes[x][0]
        if self.rng.random() < 0.5:  # after a squeeze, as in most networks
            like = self.where(lambda shape: len(shape) == 3 and shape[0] == channels)
            self.append(layers.GlobalAvgPool(self.rng.random() < 0.6), like)
            if len(self.shapes[-1]) == 3 and self.rng.random() < 0.5:
                self.append(layers.Conv2d("convs.squeeze", channels, channels, 1, bias=True))
            if self.rng.random() < 0.7:
                self.append(layers.Activation(self.rng.choice(KINDS)))
        gate = self.where(lambda shape: shape in ((channels,), (channels, 1, 1)))
        self.append(layers.Multiply(), x, gate)

    def concatenation(self) -> None:
        x = self.image()
        y = self.where(lambda shape: len(shape) == 3 and shape[1:] == self.shapes[x][1:])
        self.append(layers.Concat(), *self.rng.sample((x, y), 2))

    def shuffle(self) -> None:
        x = self.where(lambda shape: len(shape) == 3 and shape[0] > 1)
        channels = self.shapes[x][0]
        divisors = [n for n in range(1, channels + 1) if channels % n == 0]
        self.append(layers.Shuffle(self.rng.choice(divisors[1:-1] or divisors)), x)

    def slice(self) -> None:
        x = self.where(lambda shape: len(shape) == 3 and shape[0] > 1)
        channels = self.shapes[x][0]
        taken = self.rng.choice([n for n in self.net.widths if n < channels] or [channels // 2])
        self.append(layers.Slice(self.rng.randint(0, channels - taken), taken), x)

    def halves(self) -> None:
        """Slices of one value, as channel splits have them."""
        x = self.where(lambda shape: len(shape) == 3 and shape[0] > 1)
        half = self.shapes[x][0] // 2
        for start in (0, half):
            self.append(layers.Slice(start, half), x)

    def pad(self) -> None:
        sides = self.rng.choice(((-1, 1, -1, 1), (0, 1, 0, 1), (2, 1, 0, -1)))
        self.append(layers.Pad(sides, self.rng.choice((0.0, -1.5))), self.image())

    def code(self) -> None:
        x = self.any()
        self.append(layers.Code("def code(x0):\n    return x0.tanh() * 2"), x)

    def code_of_two(self) -> None:
        x = self.any()
        y = self.one_of(number for number, shape in enumerate(self.shapes) if shape == self.shapes[x])
        self.append(layers.Code("def code(x0, x1):\n    return x0 - 0.5 * x1", reads=2), x, y)

    def flatten(self) -> None:
        self.append(layers.Flatten(), self.image())

    def dropout(self) -> None:
        self.append(layers.Dropout(0.3), self.any())

    def quantization(self) -> None:
        if not self.net.quantized:
            raise ValueError("nothing is quantized")
        bits = self.rng.choice((2, 4))
        self.append(layers.Quantize(f"clips.{self.depth}_{bits}", bits), self.any())

    def opaque(self) -> None:
        x = self.any()
        channels, *size = self.shapes[x]
        name, stride = f"opaque.{self.net.new_name()}", 1
        module = self.rng.choice((nn.Softplus(), nn.ReLU(inplace=True), nn.Hardswish(inplace=True)))
        if size and self.rng.random() < 0.3:
            stride, module = 2, nn.Conv2d(channels, channels, 3, 2, 1)
        params = sum(parameter.numel() for parameter in module.parameters())
        self.append(layers.Opaque(name, channels, stride, params), x)
        self.net.add_opaque(name, module)


_OPS = {
    RandomLayer.convolution: 5,
    RandomLayer.norm: 5,
    RandomLayer.activation: 5,
    RandomLayer.pool: 2,
    RandomLayer.global_pool: 0.4,
    RandomLayer.linear: 1,
    RandomLayer.sum: 2,
    RandomLayer.same_sum: 5,
    RandomLayer.gate: 2,
    RandomLayer.concatenation: 3,
    RandomLayer.shuffle: 3,
    RandomLayer.slice: 2,
    RandomLayer.halves: 1.5,
    RandomLayer.pad: 0.5,
    RandomLayer.flatten: 0.2,
    RandomLayer.dropout: 0.5,
    RandomLayer.quantization: 0.2,
    RandomLayer.opaque: 0.5,
    RandomLayer.code: 0.3,
    RandomLayer.code_of_two: 0.3,
}
"""What draws an op, and how often."""
