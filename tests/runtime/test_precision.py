"""How fp32 is multiplied on CUDA: one setting of torch's, whichever of its interfaces set it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from lasfast.runtime.precision import deterministic_cudnn, fp32_products, fp32_products_as

cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
NEWER = hasattr(cudnn, "conv")


@pytest.fixture(autouse=True)
def torchs_defaults() -> Iterator[None]:
    """Before each test; and the suite's own settings afterwards."""
    with fp32_products_as("exact"):
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = True
        if NEWER:
            matmul.fp32_precision = "none"
        yield
        if NEWER:
            torch.backends.fp32_precision = "none"


def older(cudnn_allows: bool, of_matmul: str) -> Callable[[], None]:
    def take() -> None:
        cudnn.allow_tf32 = cudnn_allows
        torch.set_float32_matmul_precision(of_matmul)

    return take


def newer(conv: str = "", of_matmul: str = "", everything: str = "") -> Callable[[], None]:
    def take() -> None:
        for place, value in ((cudnn.conv, conv), (matmul, of_matmul), (torch.backends, everything)):
            if value:
                place.fp32_precision = value

    return take


SETTINGS = [
    (lambda: None, "tf32"),
    (older(False, "highest"), "exact"),
    (older(False, "high"), "exact"),
    (older(True, "medium"), "tf32"),
]
if NEWER:
    SETTINGS += [
        (newer(conv="ieee"), "exact"),
        (newer(conv="tf32", of_matmul="ieee"), "tf32"),
        (newer(of_matmul="tf32"), "tf32"),
        (newer(conv="ieee", of_matmul="tf32"), "exact"),
        (newer(conv="none", everything="tf32"), "tf32"),
        (newer(conv="none", everything="ieee"), "exact"),
    ]


def visible() -> list[object]:
    """All settings, or that one cannot be read."""

    def read(setting: Callable[[], object]) -> object:
        try:
            return setting()
        except RuntimeError:
            return "cannot be read"

    places = (cudnn.conv, cudnn.rnn, matmul, torch.backends) if NEWER else ()
    both = lambda: cudnn.allow_tf32, torch.get_float32_matmul_precision
    return [*(place.fp32_precision for place in places), *map(read, both)]


@pytest.mark.parametrize(("take", "expected"), SETTINGS)
def test_it_is_read_whichever_interface_set_it(take: Callable[[], None], expected: str) -> None:
    take()
    assert fp32_products() == expected


@pytest.mark.parametrize("wanted", ["exact", "tf32"])
@pytest.mark.parametrize("take", [take for take, _ in SETTINGS])
def test_within_the_block_all_settings_agree_and_afterwards_are_as_before(
    take: Callable[[], None], wanted: str
) -> None:
    take()
    before = visible()
    with fp32_products_as(wanted):
        assert fp32_products() == wanted
        assert cudnn.allow_tf32 == matmul.allow_tf32 == (wanted == "tf32")
        assert torch.get_float32_matmul_precision() == ("high" if wanted == "tf32" else "highest")
        if NEWER:
            assert matmul.fp32_precision == ("tf32" if wanted == "tf32" else "ieee")
    assert visible() == before


def test_in_older_versions_of_torch_there_is_one_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SimpleNamespace(allow_tf32=True)
    monkeypatch.setattr(torch.backends, "cudnn", setting)
    assert fp32_products() == "tf32"
    with fp32_products_as("exact"):
        assert not setting.allow_tf32
        assert fp32_products() == "exact"
    assert setting.allow_tf32


@pytest.mark.parametrize("take", [take for take, _ in SETTINGS])
def test_deterministic_algorithms_leave_it_alone(take: Callable[[], None]) -> None:
    """Unlike `torch.backends.cudnn.flags`, which sets it to TF32, or raises."""
    take()
    before, names = visible(), ("enabled", "benchmark", "deterministic")
    flags = [getattr(cudnn, name) for name in names]
    with deterministic_cudnn():
        assert [getattr(cudnn, name) for name in names] == [True, False, True]
        assert visible() == before
    assert [getattr(cudnn, name) for name in names] == flags
    assert visible() == before
