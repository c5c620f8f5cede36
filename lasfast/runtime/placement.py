"""The placement of a compiled function: on the CPU with some threads, or on a GPU in a stream."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lasfast.runtime import compiled


class Placement(NamedTuple):
    """The place where a compiled function runs, as its name and its arguments say it.

    Attributes:
        kind: the end of the function's name: "cpu" or "cuda"; "" where no kernels may run.
        arguments: what stands between the workspace and the outputs: on the CPU the number of threads and
            the number of the instruction set, on CUDA the index of the device and the address of the stream.
    """

    kind: str
    arguments: tuple[int, int]


def of(tensor: Tensor) -> Placement:
    """Return the placement of work on a tensor: on CUDA, in torch's current stream of its device."""
    if tensor.is_cuda:
        device = tensor.device
        return Placement("cuda", (device.index, stream_of(device)))
    return _on_cpu(torch.get_num_threads(), compiled.isa_number())


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter or buffer; the CPU where it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def stream_of(device: torch.device) -> int:
    """Return the address of torch's current stream on a GPU; 0 on the CPU, which may emulate CUDA."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@functools.cache  # operators ask at every call
def _on_cpu(threads: int, isa: int) -> Placement:
    return Placement("cpu", (threads, isa))
