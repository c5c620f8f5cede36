"""Convolution and batch normalization that use the first channels of their parameters."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lasfast.ops import sliced_conv2d


class SlicedConv2d(nn.Conv2d):
    """`nn.Conv2d` whose forward pass may use the first channels only, reading the weight in place.

    ``forward(x, c_out)`` takes x [N, c_in, H, W] with any c_in up to ``in_channels`` and gives
    [N, c_out, H', W'], convolved with ``weight[:c_out, :c_in // groups]`` plus ``bias[:c_out]``. Without
    `c_out`, all output channels. A depthwise convolution (``groups == in_channels == out_channels``) narrows
    its groups along: x [N, c, H, W] gives [N, c, H', W'] from the first c filters. In any other, groups stay.

    Raises ValueError for what the operator does not have: dilation, padding other than zeros, different
    strides or paddings of the two axes, padding="same" that is not the same on all sides.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.dilation != (1, 1):
            raise ValueError(f"dilation is {self.dilation}, expected (1, 1)")
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode is {self.padding_mode!r}, expected 'zeros'")
        if self.stride[0] != self.stride[1]:
            raise ValueError(f"stride is {self.stride}, expected the same for both axes")
        self._padding = self._square_padding()

    def _square_padding(self) -> int:
        if self.padding == "valid":
            return 0
        if self.padding == "same":
            if self.kernel_size[0] != self.kernel_size[1] or self.kernel_size[0] % 2 == 0:
                raise ValueError(
                    f"padding is 'same', expected a square odd kernel with it, got {self.kernel_size}"
                )
            return self.kernel_size[0] // 2
        if self.padding[0] != self.padding[1]:
            raise ValueError(f"padding is {self.padding}, expected the same for both axes")
        return int(self.padding[0])

    def forward(self, x: Tensor, c_out: int | None = None) -> Tensor:
        """X [N, c_in, H, W] to [N, c_out, H', W']; raises ValueError where the weight has no such slice."""
        if x.dim() != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected [N, c_in, H, W]")
        c_in = x.shape[1]
        groups = self.groups
        if groups > 1 and groups == self.in_channels == self.out_channels:
            groups = c_in
        if c_out is None:
            c_out = c_in if groups != self.groups else self.out_channels
        y = sliced_conv2d(x, self.weight, c_in, c_out, self.stride[0], self._padding, groups)
        if self.bias is None:
            return y
        return y + self.bias[:c_out].to(y.dtype).view(1, -1, 1, 1)


class SlicedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that normalizes x [N, c, H, W] with any c up to ``num_features``.

    Reads the first c entries of weight and bias, and reads or updates the first c of the running statistics
    in place; the others stay as they are. ``num_batches_tracked`` counts every batch, whatever its channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """X [N, c, H, W] to the same shape; raises ValueError where there are more channels than features."""
        if x.dim() != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected [N, c, H, W]")
        c = x.shape[1]
        if c > self.num_features:
            raise ValueError(f"x has {c} channels, expected at most the {self.num_features} features")
        if c == self.num_features:
            return super().forward(x)
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        # As in torch: batch statistics while training, or where there are no others; running ones are updated
        # in training only, and only if tracked.
        has_running = self.running_mean is not None and self.running_var is not None
        pass_running = has_running and (not self.training or self.track_running_stats)
        return F.batch_norm(
            x,
            self.running_mean[:c] if pass_running and self.running_mean is not None else None,
            self.running_var[:c] if pass_running and self.running_var is not None else None,
            None if self.weight is None else self.weight[:c],
            None if self.bias is None else self.bias[:c],
            self.training or not has_running,
            factor,
            self.eps,
        )
