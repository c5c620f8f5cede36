"""Supernets, images and kernels for the backends' tests."""

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch

from lasfast import supernets
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.native_backend import EXECUTORS, why_missing
from lasfast.runtime import compiled
from lasfast.supernets import LayerAssignmentSupernet, LayerBuilder
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
    "test_random_networks_agree",
    "test_random_networks_alone",
    "test_alone_and_together",
    "test_a_module_may_write",
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
