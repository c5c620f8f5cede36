"""Quantization of values with a learned range, as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lasfast.core.checks import check_bits
from lasfast.ops.quantize import pact


class PACT(nn.Module):
    """Clips to [0, alpha] with a learned alpha, and rounds to 2^bits levels (Choi et al. 2018).

    It takes the place of a ReLU. Weight decay of alpha, as of the weights, is part of the method: it narrows
    the range until the loss minds. See `lasfast.ops.pact` for the gradients.

    Args:
        bits: from 1 to 8.
        alpha: to begin with. The paper begins higher, and trains for longer.

    Raises TypeError and ValueError unless `bits` is such an int.
    """

    def __init__(self, bits: int, alpha: float = 3.0) -> None:
        check_bits("bits", bits)
        super().__init__()
        self.bits = bits
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def forward(self, x: Tensor) -> Tensor:
        """X of any shape to the same shape."""
        return pact(x, self.alpha, self.bits)
