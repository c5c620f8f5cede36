"""The format executorch, for phones and small devices: one image at a time, by XNNPACK's kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lasfast.deploy.card import ModelCard

CARD = "lasfast"
"""The name of the method that returns the model card."""


def write(program: ExportedProgram, card: ModelCard, path: Path) -> None:
    """Write a program for ExecuTorch, which plans its memory ahead: for one image."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    example = torch.zeros(1, *card.image_shape, dtype=torch.uint8)
    of_one = torch.export.export(program.module(), (example,))
    lowered = to_edge_transform_and_lower(
        of_one, partitioner=[XnnpackPartitioner()], constant_methods={CARD: card.to_text()}
    )
    path.write_bytes(lowered.to_executorch().buffer)


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return the function of images that ExecuTorch's runtime makes of a file, and the text of its card."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    forward = program.load_method("forward")
    card = program.load_method(CARD).execute([])[0] if CARD in program.method_names else ""

    def run(images: Tensor) -> Tensor:
        # The runtime's memory holds the next result in the place of the last.
        return torch.cat([forward.execute([one])[0].clone() for one in images.split(1)])

    return run, card
