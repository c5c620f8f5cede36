"""The format torchscript: what libtorch (C++) and PyTorch's older mobile runtimes read.

PyTorch has deprecated TorchScript and warns at each of its functions; those warnings are for the authors of
programs, and are not shown to who asked for this format by name.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lasfast.deploy.card import ModelCard
from lasfast.deploy.pt2 import CARD


class _Checked(nn.Module):
    """Runs a traced network on bytes alone: a trace takes any dtype, and would normalize floats wrongly."""

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8, "images must be uint8, 0 to 255"
        return self.traced(images)


def write(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    """Write a program as TorchScript; `torch.jit.load(path)` is the network."""
    example = torch.zeros(2, *card.image_shape, dtype=torch.uint8)
    with _without_warnings(), torch.no_grad():
        traced = torch.jit.trace(program.module(), (example,))
        content = io.BytesIO()
        torch.jit.save(torch.jit.script(_Checked(traced)), content, _extra_files={CARD: card.to_text()})
    path.write_bytes(content.getbuffer())


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the function of images that a file has, and the text of its card ("" where it has none)."""
    extra: dict[str, str | bytes] = {CARD: ""}  # torch gives bytes
    with _without_warnings():
        content = io.BytesIO(path.read_bytes())
        network = torch.jit.load(content, map_location="cpu", _extra_files=extra)
    card = extra[CARD]
    return network, card.decode() if isinstance(card, bytes) else card


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield
