"""Supernets of workloads for which lasfast has no family, with widths, kernels or expansions to choose."""

import random
from math import prod

from lasfast.spaces import SearchSpace
from lasfast.supernets import LayerBuilder, Supernet


class Choices(SearchSpace):
    """A space with one of `options[i]` for each decision i; an architecture holds their indices."""

    def __init__(self, options):
        self.options = tuple(map(tuple, options))

    def validate(self, architecture):
        architecture = tuple(architecture)
        sizes = [len(options) for options in self.options]
        if len(architecture) != len(sizes) or any(
            not 0 <= a < n for a, n in zip(architecture, sizes, strict=True)
        ):
            raise ValueError(f"architecture must choose among {sizes} options, got {architecture}")
        return architecture

    def sample(self, rng):
        return tuple(rng.randrange(len(options)) for options in self.options)

    def enumerate(self):
        raise NotImplementedError

    def count(self):
        return prod(map(len, self.options))

    def describe(self):
        return {"space": "Choices", "options": self.options}

    def chosen(self, architecture):
        pairs = zip(self.options, self.validate(architecture), strict=True)
        return [options[index] for options, index in pairs]


class ChannelNet(Supernet):
    """ResidualNet 3-4-5 with 0.2 to 1.6 times as many middle channels in a block (Single Path One-Shot)."""

    ratios = tuple(ratio / 10 for ratio in range(2, 18, 2))

    def __init__(self, num_classes=10):
        self.widths = [16] * 3 + [32] * 4 + [64] * 5
        super().__init__(Choices([self.ratios] * len(self.widths)), num_classes=num_classes, in_channels=3)
        self.create_modules(self.path((len(self.ratios) - 1,) * len(self.widths)))

    def path(self, architecture):
        stem = LayerBuilder("stem", 3)
        stem.conv_bn_act("", stem.input, 16, 3)
        path, before = [stem.build()], 16
        pairs = zip(self.widths, self.space.chosen(architecture), strict=True)
        for index, (channels, ratio) in enumerate(pairs):
            block = LayerBuilder(f"blocks.{index}", before)
            stride = 1 if channels == before else 2
            y = block.conv_bn_act("1", block.input, max(1, round(ratio * channels)), 3, stride)
            y = block.conv_bn("2", y, channels, 3)
            shortcut = block.pool(block.input, "max", 1, 2) if stride == 2 else block.input
            block.activation(block.add(y, shortcut))
            path.append(block.build())
            before = channels
        return (*path, _head(before, self.num_classes))


class MobileNet(Supernet):
    """A MobileNetV2 for 32 x 32 images, with kernels of 3, 5 or 7 and expansions of 3 or 6 to choose."""

    options = tuple((kernel, expansion) for kernel in (3, 5, 7) for expansion in (3, 6))

    def __init__(self, num_classes=10):
        self.shapes = [(16, 1)] + [(24, 2), *[(24, 1)] * 2] + [(40, 2), *[(40, 1)] * 3] + [(80, 1)] * 4
        super().__init__(Choices([self.options] * len(self.shapes)), num_classes=num_classes, in_channels=3)
        for kernel in (3, 5, 7):  # each kernel size has weights of its own
            widest = self.options.index((kernel, 6))
            self.create_modules(self.path((widest,) * len(self.shapes)))

    def path(self, architecture):
        stem = LayerBuilder("stem", 3)
        stem.conv_bn_act("", stem.input, 16, 3, kind="relu6")
        path, before = [stem.build()], 16
        pairs = zip(self.shapes, self.space.chosen(architecture), strict=True)
        for index, ((channels, stride), (kernel, expansion)) in enumerate(pairs):
            block = LayerBuilder(f"blocks.{index}.{kernel}", before)
            middle = expansion * before
            y = block.conv_bn_act("1", block.input, middle, 1, kind="relu6")
            y = block.conv_bn_act("2", y, middle, kernel, stride, groups=middle, kind="relu6")
            y = block.conv_bn("3", y, channels, 1)
            if channels == before and stride == 1:
                block.add(y, block.input)
            path.append(block.build())
            before = channels
        return (*path, _head(before, self.num_classes))


def generation(space, count, rng=None):
    """Return a generation of evolution: half are crossovers, half are mutations of the ten best."""
    rng = rng or random.Random(0)
    population = [space.sample(rng) for _ in range(count)]
    for _ in range(5):
        parents = rng.sample(population, 10)  # these count as the best
        crossed = [
            tuple(rng.choice(pair) for pair in zip(*rng.sample(parents, 2), strict=True))
            for _ in range(count // 2)
        ]
        mutated = [
            tuple(
                new if rng.random() < 0.1 else old
                for old, new in zip(rng.choice(parents), space.sample(rng), strict=True)
            )
            for _ in range(count - count // 2)
        ]
        population = crossed + mutated
    return population


def frontier(space, count, rng=None):
    """Return the candidates of a step of LayerNAS in the middle of a search.

    These are different prefixes, each with every option of the next layer; later layers have the largest.
    """
    rng = rng or random.Random(0)
    depth = len(space.options) // 2
    options = len(space.options[depth])
    children = []
    for _ in range(count // options):
        prefix = space.sample(rng)[:depth]
        rest = tuple(len(later) - 1 for later in space.options[depth + 1 :])
        children += [(*prefix, option, *rest) for option in range(options)]
    return children


def _head(channels, num_classes):
    head = LayerBuilder("classifier", channels)
    head.linear("fc", head.global_avg_pool(head.input), num_classes)
    return head.build()
