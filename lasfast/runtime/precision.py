"""The table of precisions (`lasfast.ir.precision`) in torch's terms, and how fp32 is multiplied on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch

from lasfast.ir.precision import PRECISIONS

DTYPES: dict[torch.dtype, int] = {getattr(torch, one.dtype): one.code for one in PRECISIONS.values()}
"""The number in native code of each dtype that kernels take."""

Fp32Products = Literal["exact", "tf32"]
T = TypeVar("T")


def torch_dtype(precision: str) -> torch.dtype:
    """Return the dtype in which a precision stores values."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision].dtype)
    return dtype


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which torch computes in a precision; in "fp32" it changes nothing."""
    enabled = precision != "fp32"
    return torch.autocast(device.type, torch_dtype(precision) if enabled else None, enabled=enabled)


def fp32_products() -> Fp32Products:
    """Return how fp32 is multiplied on CUDA now: "exact", or with operands rounded to "tf32".

    This is torch's setting for convolutions, which holds for lasfast's kernels, too, in training and in
    evaluation. torch's default is "tf32"; ``torch.backends.cudnn.conv.fp32_precision = "ieee"``, or
    ``torch.backends.cudnn.allow_tf32 = False`` in versions that lack it, makes it exact.
    """
    cudnn = torch.backends.cudnn
    newer = getattr(cudnn, "conv", None)
    rounded = cudnn.allow_tf32 if newer is None else newer.fp32_precision == "tf32"
    return "tf32" if rounded else "exact"


@contextmanager
def fp32_products_as(products: Fp32Products) -> Iterator[None]:
    """Let lasfast and PyTorch multiply fp32 on CUDA so within the block, in convolutions and elsewhere.

    Whichever of torch's interfaces to these settings the user took, both can be read within the block, and
    are afterwards as they were before.
    """
    before = _Fp32Settings.now()
    rounded = products == "tf32"
    newer = "tf32" if rounded else "ieee"
    _Fp32Settings("high" if rounded else "highest", rounded, (newer, newer, newer)).set()
    try:
        yield
    finally:
        before.set()


class _Fp32Settings:
    """torch's settings of how fp32 is multiplied: the older two, and, where torch has them, the newer three.

    Setting an older one sets newer ones, too. Where newer ones have been set to something else since, torch
    refuses to read the older one: it is then the opposite.
    """

    def __init__(self, matmul: str, cudnn: bool, newer: tuple[str, ...]) -> None:
        self.matmul, self.cudnn, self.newer = matmul, cudnn, newer

    @classmethod
    def now(cls) -> _Fp32Settings:
        newer = tuple(place.fp32_precision for place in cls._places())
        of_conv, _, of_matmul = newer or ("", "", "")
        return cls(
            _read(torch.get_float32_matmul_precision, "highest" if of_matmul == "tf32" else "high"),
            _read(lambda: torch.backends.cudnn.allow_tf32, of_conv != "tf32"),
            newer,
        )

    def set(self) -> None:
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.cudnn.allow_tf32 = self.cudnn
        for place, value in zip(self._places(), self.newer, strict=False):
            place.fp32_precision = value

    @staticmethod
    def _places() -> tuple[Any, ...]:
        """Return what has the newer settings: of convolutions, of recurrent layers, of matrix products."""
        cudnn = torch.backends.cudnn
        return (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul) if hasattr(cudnn, "conv") else ()


def _read(older: Callable[[], T], contradicted: T) -> T:
    """Return an older setting, or what it is where a newer one contradicts it."""
    try:
        return older()
    except RuntimeError:
        return contradicted


@contextmanager
def deterministic_cudnn() -> Iterator[None]:
    """Let cuDNN take the same deterministic algorithms every time within the block.

    (`torch.backends.cudnn.flags` would set how fp32 is multiplied, too, and raises where that was set by
    torch's newer interface.)
    """
    cudnn = torch.backends.cudnn
    names = ("enabled", "benchmark", "deterministic")
    before = {name: getattr(cudnn, name) for name in names}
    try:
        for name, value in zip(names, (True, False, True), strict=True):
            setattr(cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)
