"""The self-check, which compares lasfast's kernels with PyTorch on this machine: `lasfast check` runs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain

import torch

from lasfast.selfcheck.case import Case, Result, environment
from lasfast.selfcheck.evaluation import evaluation_cases
from lasfast.selfcheck.tiles import tile_cases
from lasfast.selfcheck.training import training_cases


def run(device: torch.device, begin: Callable[[str], None] = lambda name: None) -> Iterator[Result]:
    """Check the kernels of the CPU, or of the GPU `device`, case by case.

    On the CPU, every instruction set of this machine is checked; on a GPU, all ways to predict, all tiles of
    convolutions, and CUDA graphs. Random numbers are the same every time. The check takes some seconds. It
    ends at the first case that cannot be run, since a GPU may be of no use afterwards.

    Args:
        device: the CPU or a GPU.
        begin: is called with the name of each case before it is checked.

    Raises:
        torch.OutOfMemoryError: there is too little memory, which says nothing about the kernels.
    """
    with environment({"LASFAST_CHOICE": "native"}):
        for case in chain(evaluation_cases(device), tile_cases(device), training_cases(device)):
            begin(case.name)
            result = case.check()
            yield result
            if result.error == math.inf:
                return


__all__ = ["Case", "Result", "run"]
