"""The target: which network runs, where and in what precision, as executors and layouts need to know it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lasfast.data.normalization import Normalization
from lasfast.execution.interpret import evaluation_mode
from lasfast.ir.precision import PRECISIONS
from lasfast.runtime.placement import device_of
from lasfast.runtime.precision import autocast, torch_dtype


@dataclass(frozen=True)
class Target:
    """A network, and the device and precision in which a backend runs it.

    Attributes:
        module: any network; its parameters are read at each run.
        precision: "fp32" or "bf16", in which values and weights are stored.
        device: where the parameters and the images are.
        normalization: turns uint8 images into what the network sees; None for floating-point images.
        memory_budget: bytes of values and workspace to stay within; None for no bound.
        native: the compiled module; None where PyTorch runs everything.
    """

    module: nn.Module
    precision: str
    device: torch.device
    normalization: Normalization | None = None
    memory_budget: int | None = None
    native: Any = None

    @property
    def storage(self) -> int:
        """The precision's number in native code."""
        return PRECISIONS[self.precision].code

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of stored values."""
        return torch_dtype(self.precision)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Let torch run the module in evaluation mode, without gradients, in the wanted precision.

        The modes of its submodules are put back afterwards.
        """
        device = device_of(self.module)
        with evaluation_mode(self.module), torch.inference_mode(), autocast(device, self.precision):
            yield
