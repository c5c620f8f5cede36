"""A module that quantizes values within a learned range."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lasfast.core.checks import check_bits
from lasfast.ops.quantize import pact


class PACT(nn.Module):
    """Clips to [0, alpha] with a learned alpha, and rounds to 2^bits levels (Choi et al. 2018).

    It stands for a ReLU. Weight decay of alpha, as of the weights, is part of the method: it narrows the
    range for as long as the loss allows. See `lasfast.ops.pact` for the gradients.

    Args:
        bits: from 1 to 8.
        alpha: the value to begin with. The paper begins higher, and trains for longer.

    Raises TypeError and ValueError unless `bits` is such an int.
    """

    def __init__(self, bits: int, alpha: float = 3.0) -> None:
        check_bits("bits", bits)
        super().__init__()
        self.bits = bits
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def forward(self, x: Tensor) -> Tensor:
        """Map x of any shape to the same shape."""
        return pact(x, self.alpha, self.bits)
