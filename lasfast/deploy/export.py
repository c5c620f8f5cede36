"""Writing networks to files, each of which is run and compared with PyTorch before it takes its name."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lasfast.core.files import atomic_write
from lasfast.deploy import pt2
from lasfast.deploy.card import ModelCard
from lasfast.deploy.deployable import Deployable
from lasfast.deploy.formats import FORMATS, DeployedModel, Format, format_of, load_program
from lasfast.evaluation.latency import least_seconds

TOLERANCE = 1e-3
"""The greatest difference of a file's logits from PyTorch's, relative in norm, that a file may have."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares with PyTorch.

    Attributes:
        path: the file; what else the format has lies beside it, with the same stem.
        bytes: the size of all of it.
        difference: of the logits from PyTorch's on the images, relative in norm.
        images: on how many images they were compared.
    """

    path: Path
    bytes: int
    difference: float
    images: int


def save(network: nn.Module, card: ModelCard, path: str | os.PathLike[str], images: Tensor) -> Exported:
    """Write a network as a `torch.export` program (.pt2) that takes images as bytes.

    Args:
        network: takes images float32 [N, C, H, W], normalized by the card's mean and std.
        card: describes it.
        path: where to write; the suffix must be .pt2.
        images: uint8 [N, C, H, W], on which the file is compared with the network.

    Raises:
        ValueError: the suffix is another one, or the file computes something else than the network.
    """
    path = Path(path)
    if format_of(path) is not FORMATS["pt2"]:
        raise ValueError(f"path must end in .pt2, got {path}; lasfast.deploy.convert makes others of it")
    deployable = Deployable(network, card.mean, card.std)
    with torch.no_grad():
        expected = deployable(images)
    program = pt2.export(deployable, card.image_shape)
    return _write_checked(FORMATS["pt2"], program, card, path, images, expected)


def convert(source: str | os.PathLike[str], path: str | os.PathLike[str], images: Tensor) -> Exported:
    """Write the network of a .pt2 file in the format that the suffix of `path` tells.

    Args:
        source: a file that `save` wrote.
        path: where to write.
        images: uint8 [N, C, H, W], on which the new file is compared with the old one.

    Raises:
        FileNotFoundError: there is no such source.
        ImportError: a package of the format is not installed; the text names the command that installs it.
        ValueError: a file cannot be read or its suffix is unknown, or the new file computes something else.
    """
    path = Path(path)
    wanted = format_of(path)
    wanted.check_installed(f"writing {path.suffix} files")
    program, card = load_program(source)
    with torch.no_grad():
        expected = program.module()(images)
    return _write_checked(wanted, program, card, path, images, expected)


def measure_latency(model: DeployedModel, image: Tensor, seconds: float = 0.5) -> float:
    """Return the seconds that a network takes for one image uint8 [1, C, H, W]: the fastest of many runs."""

    def run() -> None:
        model(image)

    return least_seconds(seconds)(run, lambda: None)


def _write_checked(
    wanted: Format, program: ExportedProgram, card: ModelCard, path: Path, images: Tensor, expected: Tensor
) -> Exported:
    """Write a file aside, compare it with what is expected, and only then put it in its place."""
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / f"network{path.suffix}"
        try:
            wanted.write(program, card, aside)
        except Exception as error:  # whatever a format's package raises
            reason = _root_of(error)
            raise ValueError(
                f"{path} was not written: the network cannot be translated ({reason})"
            ) from error
        run, _ = wanted.load(aside)
        with torch.no_grad():
            # A single image, too: of a graph that holds for one number of images, the other would tell.
            found, first = run(images), run(images[:1])
        difference = max(_difference(found, expected), _difference(first, expected[:1]))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{path} was not written: its logits differ from PyTorch's by {difference:.2g} of their norm "
                f"on {len(images)} images, more than {TOLERANCE}"
            )
        files = sorted(Path(folder).iterdir())
        for file in files:
            with file.open("rb") as content, atomic_write(path.with_suffix(file.suffix)) as place:
                shutil.copyfileobj(content, place)
        return Exported(path, sum(file.stat().st_size for file in files), difference, len(images))


def _root_of(error: BaseException) -> str:
    """Return the first line of the error that others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).norm() / expected.norm().clamp(min=torch.finfo(torch.float32).tiny))
