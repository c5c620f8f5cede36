"""`--teacher`: the network that the winner of a search learns from, where it is trained at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lasfast.cli.earlier import names_run
from lasfast.cli.options import ChoiceOptions, SearchOptions
from lasfast.cli.setup import distillation_values
from lasfast.data import Dataset
from lasfast.data.normalization import channel_scale
from lasfast.deploy import pt2
from lasfast.evaluation.evaluator import Evaluator
from lasfast.study.study import Study
from lasfast.supernets import ModelSupernet
from lasfast.train import Distillation

MODEL = "model"
"""The teacher that is the network of `--model` itself."""


class Exported(nn.Module):
    """The network of a `torch.export` program, which is in evaluation mode for good.

    Args:
        program: the network.
        data: says how images are normalized, for a program that takes bytes; None for one that takes images
            as they are trained on.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, program: nn.Module, data: Dataset | None) -> None:
        super().__init__()
        self.program = program
        self.takes_bytes = data is not None
        if data is not None:
            scale, shift = channel_scale(data.mean, data.std, torch.empty(0, dtype=torch.uint8))
            self.register_buffer("scale", scale)
            self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of normalized images [N, C, H, W]."""
        if self.takes_bytes:
            images = ((images - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)
        logits: Tensor = self.program(images)
        return logits

    def train(self, mode: bool = True) -> Exported:
        """Leave the mode as it is: a program has a single one, and refuses to be asked."""
        return self


def read_teacher(
    options: SearchOptions | ChoiceOptions, data: Dataset
) -> Callable[[Study], Distillation] | None:
    """Return the function of a finished study that gives the winner's distillation; None without `--teacher`.

    Raises:
        ValueError: nothing is trained at the end, or the file has no network for these images.
        FileNotFoundError: there is no such file.
    """
    if options.teacher is None:
        return None
    if not options.retrain and not options.tune_epochs:
        raise ValueError("--teacher teaches the winner in --retrain or --tune-epochs: give one of them")
    values = distillation_values(options)
    if options.teacher != MODEL:
        network = read_program(Path(options.teacher), data)
        return lambda study: Distillation(network, **values)
    if options.model is None:
        raise ValueError("--teacher model is the network of --model, and none is given")
    adapted = bool(options.adapt_epochs) or names_run(options)
    return lambda study: Distillation(_whole_model(study, adapted), **values)


def _whole_model(study: Study, adapted: bool) -> nn.Module:
    """Return the model with the weights that it has after the search, by which versions were measured."""
    evaluator = study.evaluator
    assert isinstance(evaluator, Evaluator)
    supernet = evaluator.supernet
    assert isinstance(supernet, ModelSupernet)
    # Adaptation has changed the weights, for which the model's own statistics are no longer.
    return evaluator.extract(supernet.full) if adapted else supernet.extract(supernet.full)


def read_program(path: Path, data: Dataset) -> nn.Module:
    """Return the network of a `torch.export` program, which has to give logits for the images.

    Files of lasfast's own, which have a model card, take images as bytes; others take normalized ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no such program.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--teacher: there is no file {path}")
    images = torch.zeros(2, data.channels, *data.image_size, dtype=torch.float32)
    try:
        program, card = pt2.read(path)
        network = Exported(program.module(), data if card else None)
        with torch.no_grad():
            logits = network(images)
    except Exception as error:  # whatever torch, or the program, says of what it is given
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"--teacher {path} must be a torch.export program for images {tuple(images.shape[1:])}: {reason}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, data.num_classes):
        found = tuple(logits.shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"--teacher {path} must give logits of {data.num_classes} classes, got {found}")
    return network
