"""Supernets, images and kernels for the backends' tests."""

import importlib
import importlib.util
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from lasfast import supernets
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.native_backend import EXECUTORS, why_missing
from lasfast.runtime import compiled
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerAssignmentSupernet, LayerBuilder, Supernet
from lasfast.supernets.parts import classifier
from tests.conftest import CHOICE_SUPERNETS, shaken
from tests.engine import schedule_helpers

FAMILIES = {
    "plain": lambda: supernets.PlainNet((2, 2, 2), 7, image_size=16),
    "residual": lambda: supernets.ResidualNet((3, 2, 2), 7),
    "residual-projection": lambda: supernets.ResidualNet((2, 2, 2), 7, shortcut="projection"),
    "mobilenet-v1": lambda: supernets.MobileNetV1((2, 2, 2, 2), 7, stem="cifar"),
    "resnet50": lambda: supernets.ResNet50((2, 2, 2, 1), 7, stem="cifar"),
    "squeezed": lambda: SqueezedNet((2, 2), num_classes=7),
    "shuffled": lambda: ShuffledNet((2, 2), num_classes=7),
}


class SmallNet(LayerAssignmentSupernet):
    """Two groups of 16 and 24 channels; the first layer of each halves height and width."""

    channels = (16, 24)

    def __init__(self, max_layers, num_classes):
        super().__init__(2, max_layers, num_classes=num_classes, in_channels=3)

    def stem_layers(self):
        block = LayerBuilder("stem", 3)
        block.conv_bn_act("", block.input, 12, 3)
        return (block.build(),)

    def layer(self, group, index):
        channels = self.channels[group]
        before = channels if index else (12, *self.channels)[group]
        block = LayerBuilder(f"groups.{group}.{index}", before)
        self.fill(block, channels, 1 if index else 2)
        return block.build()

    def head_layers(self):
        return classifier(self.channels[-1], self.num_classes, 0)


class SqueezedNet(SmallNet):
    """The inverted residuals of MobileNetV3 (Howard et al. 2019), gates and all."""

    def fill(self, block, channels, stride):
        kind = "relu" if channels == 16 else "hardswish"
        wide = 3 * channels
        y = block.conv_bn_act("1", block.input, wide, 1, kind=kind)
        y = block.conv_bn("2", y, wide, 5, stride, groups=wide)
        y = block.squeeze_excite("se", block.activation(y, kind), 8, gate="hardsigmoid")
        y = block.conv_bn("3", y, channels, 1)
        if stride == 1:
            block.add(y, block.input)


class ShuffledNet(SmallNet):
    """The units of ShuffleNetV2 (Ma et al. 2018, figure 3c, d)."""

    def fill(self, block, channels, stride):
        half = channels // 2
        left, right = block.input, block.input
        if stride == 1:
            left, right = block.channel_split(block.input, half)
        else:
            left = block.conv_bn("4", left, left.channels, 3, 2, groups=left.channels)
            left = block.activation(block.conv_bn("5", left, half, 1))
        right = block.conv_bn_act("1", right, half, 1)
        right = block.conv_bn("2", right, half, 3, stride, groups=half)
        right = block.conv_bn_act("3", right, half, 1)
        block.channel_shuffle(block.concat(left, right), 2)


BATCHES = (5, 4, 7)  # odd sizes, the last one larger than the others
MISSING = why_missing(torch.device("cpu"))
ISAS = ["compiled"] if MISSING else compiled.load().isas_supported()


def load_reference():
    """The stand-in for the compiled module."""
    path = Path(__file__).with_name("schedule_reference.py")
    spec = importlib.util.spec_from_file_location("schedule_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulated_cuda(monkeypatch):
    """CUDA's programs and kernels in place of the CPU's, on the host: little networks take seconds."""
    try:
        emulated = importlib.import_module("lasfast._emulated")
    except ImportError:
        pytest.skip("lasfast._emulated is not built (LASFAST_EMULATE=ON)")
    monkeypatch.setattr(compiled, "load", lambda: emulated)
    monkeypatch.setitem(EXECUTORS, "cpu", CudaExecutor)


@pytest.fixture(params=schedule_helpers.ISAS)
def isa(request):
    """The number of each instruction set that schedules can be run on by hand."""
    return schedule_helpers.isa_number(request.param)


@pytest.fixture(params=schedule_helpers.STORAGES)
def storage(request):
    """The name of each storage that values of schedules can have."""
    return request.param


QUICK_ON_CUDA = (
    "test_fp32_agrees[squeezed",
    "test_fp32_agrees[shuffled",
    "test_bf16_is_as_near_to_the_truth_as_pytorchs[squeezed",
    "test_bf16_is_as_near_to_the_truth_as_pytorchs[shuffled",
    "test_backends_agree_on_odd_sizes",
    "test_whole_networks_agree",
    "test_blocks_in_bf16_are",
    "test_quantized_weights_alone",
)
"""What of the kernels that run on the host takes a second at most; the rest is marked as slow."""


def parameters_of(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def pytest_collection_modifyitems(items):
    for item in items:
        if parameters_of(item).get("kernels") == "cuda" and not item.name.startswith(QUICK_ON_CUDA):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["reference", *ISAS, "cuda"])
def kernels(request, monkeypatch):
    """What runs schedules: the reference, each instruction set, and CUDA's kernels on the host."""
    if request.param == "reference":
        reference = load_reference()
        monkeypatch.setattr(compiled, "load", lambda: reference)
        monkeypatch.setattr(compiled, "available", lambda: True)
        monkeypatch.setattr(compiled, "isa_number", lambda: 0)
    elif request.param == "cuda":
        request.getfixturevalue("emulated_cuda")
    elif MISSING:
        pytest.skip(MISSING)
    else:
        monkeypatch.setenv("LASFAST_ISA", request.param)
    return request.param


@pytest.fixture(scope="module", params=FAMILIES)
def supernet(request):
    torch.manual_seed(0)
    return shaken(FAMILIES[request.param]())


@pytest.fixture(scope="module", params=CHOICE_SUPERNETS)
def choice_supernet(request):
    """Those that are native throughout, and whose values are no step functions (see test_quantized)."""
    torch.manual_seed(0)
    return CHOICE_SUPERNETS[request.param]()


@pytest.fixture(scope="module")
def choice_net(choice_supernet):
    return shaken(choice_supernet)


@pytest.fixture
def image_size(request):
    """Pixels a side: few where a wide network runs on CUDA's kernels on the host."""
    parameters = parameters_of(request.node)
    wide = parameters.get("supernet") in ("mobilenet-v1", "resnet50")
    return 8 if wide and parameters.get("kernels") == "cuda" else 16


@pytest.fixture
def calibration(image_size):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, image_size, image_size, generator=generator) * 2 + 1 for count in BATCHES]


@pytest.fixture
def images(image_size):
    return torch.randn(6, 3, image_size, image_size, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def random_net():
    """The class, for tests that make their own."""
    return RandomNet


class RandomNet(Supernet):
    """Stages of random layers, each with alternatives that read the same weights, more or fewer of them.

    `candidates` are some paths through it: between them they hold about every form that lowering knows.
    """

    ACTIVATIONS = ("relu", "relu6", "hardswish", "swish", "sigmoid", "hardsigmoid")
    KINDS = ("conv", "residual", "preactivation", "pool", "inverted", "two norms", "norm", "gate", "arrange")
    KINDS += ("grouped", "opaque")

    def __init__(self, seed, image_size):
        super().__init__(LayerAssignmentSpace(1, 1), num_classes=7, in_channels=3)
        self.rng = random.Random(seed)
        self.size = image_size
        channels = 3
        stages = []
        for stage in range(self.rng.randint(1, 4)):
            channels, layers = self.stage(f"stages.{stage}", channels)
            stages.append(layers)
        heads = [self.head(channels)]
        self.candidates = []
        for _ in range(4):
            self.candidates.append((*(self.rng.choice(layers) for layers in stages), *heads))
        self.create_modules((*(layers[-1] for layers in stages), *heads))  # the widest alternatives
        shaken(self)

    def path(self, architecture):
        return self.candidates[0]

    def stage(self, name, channels):
        kind = self.rng.choice(self.KINDS)
        out = self.rng.choice([3, 5, 16, 24, 33])
        kernel, stride = self.rng.choice([1, 3, 5, 7]), self.rng.choice([1, 1, 2])
        act = self.rng.choice(self.ACTIVATIONS)
        flags = [self.rng.random() < 0.5 for _ in range(3)]
        padding = self.rng.randint(0, 1) if kind == "pool" else kernel // 2
        if kind == "pool":
            kernel = max(2 * padding, self.rng.choice([1, 2, 3]))
            if self.size + 2 * padding < kernel:
                kernel, padding = 1, 0
        keeps = kind in ("residual", "preactivation", "two norms", "norm", "gate", "opaque")
        if kind == "opaque":
            self.add_opaque(f"{name}.curve", nn.Softplus())
        steps = [self.rng.choice(["shuffle", "slice", "norm", "act", "act", "both"]) for _ in range(5)]
        layers = []
        for width in (4, 9, 16):
            block = LayerBuilder(name, channels)
            x = block.input
            if kind == "conv":
                y = block.conv("conv", x, out, kernel, stride, bias=flags[0])
                y = block.batch_norm("bn", y) if flags[1] else y
                y = block.activation(y, act) if flags[2] else y
            elif kind == "residual":
                y = block.conv_bn_act("1", x, width, kernel, kind=act)
                y = block.conv("conv2", y, channels, 3, bias=flags[0])
                y = block.batch_norm("bn2", y) if flags[1] else y
                if flags[2]:
                    x = block.conv_bn("_shortcut", x, channels, 1)
                y = block.activation(block.add(y, x))
            elif kind == "preactivation":
                y = block.activation(block.batch_norm("bn1", x), act)
                y = block.conv("conv1", y, width, kernel, bias=flags[0])
                y = block.activation(block.batch_norm("bn2", y), act)
                y = block.add(block.conv("conv2", y, channels, 3), x)
            elif kind == "pool":
                y = block.pool(x, "max" if flags[0] else "avg", kernel, stride, padding)
                y = block.batch_norm("bn", y) if flags[1] else y
            elif kind == "inverted":
                y = block.conv_bn_act("1", x, 8 * width, 1, kind=act)
                y = block.conv_bn_act("2", y, 8 * width, kernel, stride, groups=8 * width, kind=act)
                y = block.conv_bn("3", y, out, 1)
            elif kind == "two norms":
                y = block.conv("conv", x, channels, 3)
                one = block.activation(block.batch_norm("bn1", y), act)
                two = block.activation(block.activation(block.batch_norm("bn2", y)), act)
                y = block.add(block.add(one, two), y)
            elif kind == "gate":
                y = block.activation(block.batch_norm("bn1", x), act) if flags[0] else x
                y = block.squeeze_excite("se", y, width, kind=act, gate="hardsigmoid")
                y = block.batch_norm("bn2", y) if flags[1] else y
                y = block.activation(y, act) if flags[2] else y
            elif kind == "grouped":
                y = block.conv("wide", x, 12, 1)
                y = block.conv("conv", y, 18, 3, groups=6, bias=flags[0])
                y = block.batch_norm("bn", y) if flags[1] else y
                y = block.conv_bn("3", block.activation(y, act) if flags[2] else y, out, 1)
            elif kind == "opaque":
                y = block.activation(block.batch_norm("bn1", x), act) if flags[0] else x
                y = block.opaque("curve", y, channels)
                y = block.batch_norm("bn2", y) if flags[1] else y
                y = block.add(x, y) if flags[2] else y
            elif kind == "arrange":
                y = self.arranged(block, width, steps)
                y = block.conv("conv", y, out, 1)
            else:
                y = block.batch_norm("bn", x)
                y = block.batch_norm("bn2", block.activation(y, act)) if flags[0] else y
            layers.append(block.build())
        self.size = layers[0].shapes((channels, self.size, self.size))[-1][1]
        return (channels if keeps or kind == "pool" else out), layers

    def arranged(self, block, width, steps):
        """Steps, in any order, on a concatenation; the modules of each fit any width."""
        y = block.concat(block.conv_bn_act("1", block.input, width, 1, kind="hardswish"), block.input)
        for number, step in enumerate(steps):
            before = y
            if step == "shuffle":
                y = block.channel_shuffle(y, next(n for n in (3, 2, 5, 1) if y.channels % n == 0))
            elif step == "slice" and y.channels > 3:
                y = block.channel_slice(y, 1, y.channels - 2)
            elif step == "norm":
                y = block.batch_norm(f"norm{number}", y)
            elif step == "act":
                y = block.activation(y, "sigmoid")
            elif step == "both":
                y = block.concat(block.activation(before, "swish"), block.channel_slice(before, 0, 2))
        return y

    def head(self, channels):
        block = LayerBuilder("classifier", channels)
        if self.rng.random() < 0.5:
            y = block.global_avg_pool(block.input)
        else:
            y = block.flatten(block.input, channels * self.size**2)
        if self.rng.random() < 0.5:
            y = block.activation(block.linear("fc1", y, 11))
        y = block.dropout(y, 0.2)
        y = block.linear("fc", y, 7, bias=self.rng.random() < 0.5)
        if self.rng.random() < 0.2:
            block.activation(y, "hardswish")
        return block.build()
