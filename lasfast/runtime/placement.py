"""Where a compiled pass runs: which of the functions it calls, and what these are told of the place."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from lasfast.runtime import compiled


class Place(NamedTuple):
    """What entry points of csrc/ are told of where their tensors are.

    `kind` ends the functions' names. `arguments` are (threads, number of the instruction set) on the CPU, and
    (device, stream) on CUDA, torch's current ones; they stand between the workspace and the outputs.
    """

    kind: str
    arguments: tuple[int, int]


def place_of(tensor: Tensor) -> Place:
    """The place of a tensor, which is on the CPU or a GPU."""
    if tensor.is_cuda:
        device = tensor.device
        return Place("cuda", (device.index, stream_of(device)))
    return _on_cpu(torch.get_num_threads(), compiled.isa_number())


def stream_of(device: torch.device) -> int:
    """The address of torch's current stream on a GPU; 0 on the CPU, where CUDA's kernels may be emulated."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@functools.cache  # operators ask at every call
def _on_cpu(threads: int, isa: int) -> Place:
    return Place("cpu", (threads, isa))
