"""Networks in ordinary PyTorch that can be built at any width: what a supernet's networks have to compute.

A network asks `Widths` for the channels of each convolution by its name, and leaves out the blocks that are
named. So the same class makes a model, and the narrower network that a person would cut out of it by hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Widths = Callable[[str, int], int]
"""Returns the channels of a convolution, given its name and the model's own number."""


def whole(name: str, channels: int) -> int:
    """The width of the model itself."""
    return channels


class Unit(nn.Module):
    """A convolution, and maybe a norm and an activation."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, groups=1, norm=True, activation=nn.ReLU) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.act = activation() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Squeeze(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Basic(nn.Module):
    """Convolutions beside a shortcut, which is one of its own in the first block of a stage."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int, first: bool, grouped: bool
    ) -> None:
        super().__init__()
        self.a = Unit(inputs, middle)
        self.g = Unit(middle, middle, groups=middle // 8) if grouped else nn.Identity()
        self.b = Unit(middle, outputs, stride=stride, activation=None)
        self.short = Unit(inputs, outputs, 1, stride, activation=None) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(self.g(self.a(x))) + self.short(x))


class Inverted(nn.Module):
    """An inverted residual block with a depthwise convolution and squeeze-and-excitation."""

    def __init__(
        self, inputs: int, middle: int, squeezed: int, outputs: int, stride: int, sums: bool
    ) -> None:
        super().__init__()
        self.a = Unit(inputs, middle, 1, activation=nn.Hardswish)
        self.d = Unit(middle, middle, 5, stride, groups=middle, activation=nn.Hardswish)
        self.se, self.sums = Squeeze(middle, squeezed), sums
        self.b = Unit(middle, outputs, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.se(self.d(self.a(x))))
        return x + y if self.sums else y


class Dense(nn.Module):
    """A DenseNet layer, which adds channels to what it reads."""

    def __init__(self, inputs: int, middle: int) -> None:
        super().__init__()
        self.bn, self.a = nn.BatchNorm2d(inputs), Unit(inputs, middle, 1)
        self.b = nn.Conv2d(middle, 8, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.b(self.a(torch.relu(self.bn(x))))], 1)


class Twice(nn.Module):
    """One convolution that runs twice, so that its inputs and outputs are the same channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.relu(self.conv(x))))


class Branches(nn.Module):
    """Two branches of 16 channels that are concatenated and shuffled, and a slice of them."""

    def __init__(self, inputs: int, middle: int) -> None:
        super().__init__()
        self.a, self.b, self.c = Unit(inputs, middle), Unit(middle, 16), Unit(inputs, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.b(self.a(x)), self.c(x)], 1)
        images, channels, height, width = y.shape
        y = y.view(images, 2, 16, height, width).transpose(1, 2).reshape(images, channels, height, width)
        return torch.cat([y, torch.relu(y[:, :8])], 1)


class Network(nn.Module):
    """A random network of these blocks, a function of its seed; `left_out` names blocks."""

    def __init__(self, seed: int, widths: Widths = whole, left_out: Collection[str] = ()) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.full = rng.choice([16, 20, 33])
        self.channels = widths("stem.conv", self.full)
        self.stem = Unit(3, self.channels)
        self.blocks = nn.ModuleDict()
        for stage in range(3):
            self._add_stage(rng, stage, widths, left_out)
        self.flattens = rng.random() < 0.5
        self.eval()
        with torch.no_grad():
            features = self._features(torch.zeros(1, 3, 12, 12)).shape[1]
        middle = widths("fc1", 40)
        self.fc1, self.fc2 = nn.Linear(features, middle), nn.Linear(middle, 7)

    def _add_stage(self, rng: random.Random, stage: int, widths: Widths, left_out: Collection[str]) -> None:
        kind = rng.choice(["basic", "grouped", "inverted", "inverted", "dense", "twice", "branches", "pool"])
        full = rng.choice([c for c in (16, 24, 37, 40) if c != self.full])
        middle, stride, repeats = rng.choice([24, 40, 48]), rng.choice([1, 2]), rng.randint(1, 3)
        if kind == "twice":
            self.blocks[f"{stage}"] = Twice(self.channels)
        elif kind == "branches":
            own = widths(f"blocks.{stage}.a.conv", middle)
            self.blocks[f"{stage}"] = Branches(self.channels, own)
            self.channels = self.full = 40
        elif kind == "pool":
            self.blocks[f"{stage}"] = rng.choice([nn.MaxPool2d(2, 2), nn.AvgPool2d(3, 1, 1)])
        elif kind == "dense":
            for number in range(repeats):
                own = widths(f"blocks.{stage}_{number}.a.conv", middle)
                self.blocks[f"{stage}_{number}"] = Dense(self.channels, own)
                self.channels, self.full = self.channels + 8, self.full + 8
        else:
            outputs = widths(f"blocks.{stage}_0.b.conv", full)
            for number in range(repeats):
                name = f"blocks.{stage}_{number}"
                own, step = widths(f"{name}.a.conv", middle), stride if number == 0 else 1
                inputs, self.channels, self.full = self.channels, outputs, full
                if name in left_out:
                    continue
                if kind == "inverted":
                    squeezed = widths(f"{name}.se.reduce", 16)
                    block: nn.Module = Inverted(inputs, own, squeezed, outputs, step, number > 0)
                else:
                    block = Basic(inputs, own, outputs, step, number == 0, kind == "grouped")
                self.blocks[f"{stage}_{number}"] = block

    def _features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks.values():
            x = block(x)
        return x.flatten(1) if self.flattens else x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(self._features(x))))


def cut_by_hand(seed: int, ops: list[tuple[str, Any]], weights: Mapping[str, Tensor]) -> Network:
    """Return the network of these ops in ordinary PyTorch, with the leading parts of the weights."""
    widths = {name: getattr(op, "out_channels", getattr(op, "out_features", 0)) for name, op in ops}
    full = Network(seed)
    kept = {".".join(name.split(".")[:2]) for name, _ in ops}
    left_out = {f"blocks.{name}" for name, block in full.blocks.items() if list(block.parameters())} - kept
    network = Network(seed, lambda name, channels: widths.get(name, channels), left_out)
    state = {name: weights[name][tuple(map(slice, one.shape))] for name, one in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval()


def shaken(seed: int) -> Network:
    """Return a network with random weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    network = Network(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()
