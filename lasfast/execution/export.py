"""Write a stand-alone network as one file that needs torch alone."""

from __future__ import annotations

import copy
import io
import os

import torch
from torch import nn

from lasfast.core.files import atomic_write
from lasfast.execution.interpret import evaluation_mode
from lasfast.ir.layers import Shape
from lasfast.runtime.placement import device_of


def save_network(network: nn.Module, path: str | os.PathLike[str], image_shape: Shape) -> None:
    """Write `network`, in evaluation mode, as a `torch.export` program (conventionally `.pt2`).

    It takes any number of images float32 [N, C, H, W] with (C, H, W) = `image_shape`, and is used by

        network = torch.export.load("winner.pt2").module()
    """
    # torch.export.save warns of weights in channels_last.
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    device = device_of(network)
    # Two images: torch takes a batch of one for a constant.
    example = torch.zeros(2, *image_shape, dtype=torch.float32, device=device)
    with evaluation_mode(network):
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    content = io.BytesIO()  # torch's own writer ends the process where a path is not UTF-8
    torch.export.save(program, content)
    with atomic_write(path) as file:
        file.write(content.getbuffer())
