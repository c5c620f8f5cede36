"""Settings that hold for every test."""

import importlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from types import ModuleType

import pytest
from hypothesis import settings

import lasfast

# Every run has the same examples. None has a time limit, since busy machines are slow.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# So that what its assertions compare is shown where they fail.
pytest.register_assert_rewrite("tests.engine.schedule_helpers")

# Our own kernels are tested, whether or not they are fastest.
os.environ.setdefault("LASFAST_CHOICE", "native")


def pytest_configure():
    """Listen to Ctrl-C even where the suite runs in the background of a shell, which ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered between processes is in a directory of the tests, unless one is named."""
    with pytest.MonkeyPatch.context() as patch:
        if "LASFAST_CACHE" not in os.environ:
            patch.setenv("LASFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items):
    """Skip tests that need an NVIDIA GPU if there is none."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(autouse=True, scope="session")
def exact_products() -> Iterator[None]:
    """CUDA multiplies fp32 exactly, where a test does not ask for TF32: torch's default is that."""
    from lasfast.runtime.precision import fp32_products_as

    with fp32_products_as("exact"):
        yield


@pytest.fixture(autouse=True)
def graphs_are_recorded(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a GPU, a CUDA graph that could not be recorded is a failure, though all goes on without, slowly."""
    if request.node.get_closest_marker("cuda") is None:
        yield
        return
    caplog = request.getfixturevalue("caplog")
    yield
    warned = [record.getMessage() for record in caplog.get_records("call")]
    assert not [text for text in warned if "could not be recorded" in text]


@pytest.fixture(params=["forward", "reversed"])
def emulated(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module whose CUDA kernels run on the host, with blocks and threads in either order.

    Its functions are those of lasfast._C; tensors are the CPU's, the device is number 0 and the stream 0.
    """
    import torch  # noqa: F401  first, as in lasfast.runtime.compiled

    try:
        module = importlib.import_module("lasfast._emulated")
    except ImportError:
        pytest.skip("lasfast._emulated is not built (LASFAST_EMULATE=ON)")
    module.set_reversed(request.param == "reversed")
    yield module
    module.set_reversed(False)


@pytest.fixture
def emulated_place(emulated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Operators call CUDA's functions of the module `emulated`, on the CPU's tensors."""
    from lasfast.runtime import compiled, placement

    monkeypatch.setattr(compiled, "load", lambda: emulated)
    monkeypatch.setattr(placement, "of", lambda tensor: placement.Placement("cuda", (0, 0)))
    return emulated


SMALL = {"num_classes": 7, "stem": "cifar", "width": 0.2}
CHOICE_SUPERNETS = {
    "shufflenet-blocks": lambda: lasfast.supernets.ShuffleNetV2(**SMALL),
    "shufflenet-channels": lambda: lasfast.supernets.ShuffleNetV2(**SMALL, search="channels", blocks="5x5"),
    "shufflenet-both": lambda: lasfast.supernets.ShuffleNetV2(**SMALL, search="both"),
    "proxyless": lambda: lasfast.supernets.ProxylessNAS(**SMALL),
    "macro": lambda: lasfast.supernets.MacroNet(**SMALL),
    "mobilenet": lambda: lasfast.supernets.MobileNet("60M", **SMALL),
    "mobilenet-squeezed": lambda: lasfast.supernets.MobileNet(
        "60M", **SMALL, squeeze_excite=True, activation="swish"
    ),
}


QUANTIZED_SUPERNETS = {"quant-resnet": lambda: lasfast.supernets.QuantResNet(**SMALL)}


@pytest.fixture(scope="module", params=[*CHOICE_SUPERNETS, *QUANTIZED_SUPERNETS])
def choice_supernet(request: pytest.FixtureRequest):
    """A small supernet of each family whose layers each take one of several options."""
    import torch

    torch.manual_seed(0)
    return (CHOICE_SUPERNETS | QUANTIZED_SUPERNETS)[request.param]()


@pytest.fixture
def one_thread():
    """One thread for small tensors: more would only wait for each other, above all on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lasfast.data.load` leaves about 400 of the handwritten digits for training."""
    few = partial(lasfast.data.load, calibration=250, validation=1400)
    monkeypatch.setattr(lasfast.data, "load", few)


def shaken(supernet):
    """The supernet with buffers and scales that differ from their initial values."""
    from torch import nn

    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean)
    return supernet


@pytest.fixture
def lasfast_command(monkeypatch, capsys):
    """Run the program; return (exit status, standard output, standard error)."""
    from lasfast import cli

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lasfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run
