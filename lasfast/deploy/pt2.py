"""The format pt2: a `torch.export` program, which needs torch alone. Other formats are made of it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lasfast.deploy.card import ModelCard
from lasfast.ir.layers import Shape

CARD = "lasfast.json"
"""The name of the model card among the extra files."""


def export(network: nn.Module, image_shape: Shape) -> ExportedProgram:
    """Return the program of a network in evaluation mode, for any number of images uint8 [N, C, H, W]."""
    # Two images: torch takes a batch of one for a constant.
    example = torch.zeros(2, *image_shape, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def write(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    """Write a program with its card; `torch.export.load(path).module()` is the network."""
    content = io.BytesIO()  # torch's own writer ends the process where a path is not UTF-8
    torch.export.save(program, content, extra_files={CARD: card.to_text()})
    path.write_bytes(content.getbuffer())


def read(path: Path) -> tuple[ExportedProgram, str]:
    """Return a program, and the text of its card ("" where it has none)."""
    extra = {CARD: ""}
    program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
    return program, extra[CARD]


def read_card(path: Path) -> ModelCard:
    """Return the card of a file, which is not read for the rest; ValueError where it has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(f"/extra/{CARD}")]
            return ModelCard.of_text(archive.read(name).decode())
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} has no model card that can be read: {error}") from error


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the function of images that a file has, and the text of its card ("" where it has none)."""
    program, card = read(path)
    return program.module(), card
