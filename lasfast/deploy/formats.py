"""The formats of files with networks, and reading any of them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lasfast.deploy import executorch, onnx, openvino, pt2, torchscript
from lasfast.deploy.card import ModelCard

T = TypeVar("T")
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """A format of files with networks.

    Attributes:
        suffix: the end of the files' names.
        packages: the packages that write and run it, besides torch; `pip install lasfast[NAME]` has them.
        write: writes a program with its card to a path.
        load: returns the function of images that is in a file, and the text of its card.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, ModelCard, Path], None]
    load: Callable[[Path], tuple[Run, str]]

    def check_installed(self, what: str) -> None:
        """Raise ImportError where a package is missing; `what` is the beginning of the sentence."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            needed = " ".join(self.packages)
            raise ImportError(f"{what} needs {', '.join(missing)}, not installed here: pip install {needed}")


FORMATS = {
    "pt2": Format(".pt2", (), pt2.write, pt2.load),
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), onnx.write, onnx.load),
    "torchscript": Format(".torchscript", (), torchscript.write, torchscript.load),
    "openvino": Format(".xml", ("openvino",), openvino.write, openvino.load),
    "executorch": Format(".pte", ("executorch",), executorch.write, executorch.load),
}
"""The formats by name."""


@dataclass(frozen=True)
class DeployedModel:
    """A network that was read from a file.

    Attributes:
        card: its description.
        run: gives logits of images on the CPU, by the format's own runtime.
    """

    card: ModelCard
    run: Run

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits float32 [N, classes] of images uint8 [N, C, H, W].

        Raises:
            TypeError, ValueError: the images are not of the card's dtype and shape.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, 0 to 255, got {images.dtype}")
        if images.dim() != 4 or images.shape[1:] != self.card.image_shape:
            wanted = ", ".join(map(str, self.card.image_shape))
            raise ValueError(f"images must be [N, {wanted}], got {list(images.shape)}")
        with torch.no_grad():
            return self.run(images)


def load(path: str | os.PathLike[str]) -> DeployedModel:
    """Read a network from a file of any format, which its suffix tells.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package of the format is not installed.
        ValueError: the suffix is unknown, the file cannot be read, or it has no card.
    """
    path, found = _checked_file(path)
    found.check_installed(f"reading {path}")
    run, card = _attempt(found.load, path)
    return DeployedModel(card, run)


def load_program(path: str | os.PathLike[str]) -> tuple[ExportedProgram, ModelCard]:
    """Read the program and the card of a .pt2 file; the errors are those of `load`."""
    path, found = _checked_file(path)
    if found is not FORMATS["pt2"]:
        raise ValueError(f"{path} must be a .pt2 file, of which the other formats are made")
    return _attempt(pt2.read, path)


def format_of(path: Path) -> Format:
    """Return the format that a file's suffix tells; ValueError where none has it."""
    for one in FORMATS.values():
        if path.suffix == one.suffix:
            return one
    known = ", ".join(one.suffix for one in FORMATS.values())
    raise ValueError(f"{path} must end in {known}: a network that lasfast exported")


def _checked_file(path: str | os.PathLike[str]) -> tuple[Path, Format]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return path, format_of(path)


def _attempt(read: Callable[[Path], tuple[T, str]], path: Path) -> tuple[T, ModelCard]:
    """Read a file and its card; ValueError where that fails, for whatever reason a runtime gives."""
    try:
        found, text = read(path)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as {path.suffix}: {reason}") from error
    if not text:
        raise ValueError(
            f"{path} has no model card, which says how images go in: another program wrote it, or lasfast "
            "before 0.1 did; `lasfast search ... --resume` writes that of a search again"
        )
    return found, ModelCard.of_text(text)
