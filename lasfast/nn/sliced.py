"""Convolution, batch norm and linear layer that use the first channels of their parameters."""

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
            raise ValueError(f"dilation must be (1, 1), got {self.dilation}")
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {self.padding_mode!r}")
        if self.stride[0] != self.stride[1]:
            raise ValueError(f"stride must be the same for both axes, got {self.stride}")
        self._padding = self._square_padding()

    def _square_padding(self) -> int:
        if self.padding == "valid":
            return 0
        if self.padding == "same":
            if self.kernel_size[0] != self.kernel_size[1] or self.kernel_size[0] % 2 == 0:
                raise ValueError(
                    f"kernel_size must be square and odd for padding='same', got {self.kernel_size}"
                )
            return self.kernel_size[0] // 2
        if self.padding[0] != self.padding[1]:
            raise ValueError(f"padding must be the same for both axes, got {self.padding}")
        return int(self.padding[0])

    def forward(self, x: Tensor, c_out: int | None = None) -> Tensor:
        """Map x [N, c_in, H, W] to [N, c_out, H', W']; ValueError where the weight has no such slice."""
        if x.dim() != 4:
            raise ValueError(f"x must have 4 dimensions [N, c_in, H, W], got shape {tuple(x.shape)}")
        c_in = x.shape[1]
        c_out, groups = active_outputs(self, c_in, c_out)
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
        """Normalize x [N, c, H, W]; raises ValueError where there are more channels than features."""
        if x.dim() != 4:
            raise ValueError(f"x must have 4 dimensions [N, c, H, W], got shape {tuple(x.shape)}")
        c = x.shape[1]
        if c > self.num_features:
            raise ValueError(f"x must have at most {self.num_features} channels, the features, got {c}")
        if c == self.num_features:
            return super().forward(x)
        mean, var, by_batch, factor = begin_batch(self, c)
        weight, bias = (None if one is None else one[:c] for one in (self.weight, self.bias))
        return F.batch_norm(x, mean, var, weight, bias, by_batch, factor, self.eps)


class SlicedLinear(nn.Linear):
    """`nn.Linear` whose forward pass may use the first features only, reading the weight in place.

    ``forward(x, out_features)`` takes x [..., f_in] with any f_in up to ``in_features`` and gives
    [..., out_features], with ``weight[:out_features, :f_in]`` and ``bias[:out_features]``. Without
    `out_features`, all of them. State dicts are `nn.Linear`'s.
    """

    def forward(self, x: Tensor, out_features: int | None = None) -> Tensor:
        """Map x [..., f_in] to [..., out_features]; raises ValueError where the weight has no such slice."""
        f_in = x.shape[-1]
        f_out = self.out_features if out_features is None else out_features
        if f_in > self.in_features:
            raise ValueError(f"x must have at most the {self.in_features} in_features, got {f_in}")
        if not 1 <= f_out <= self.out_features:
            raise ValueError(f"out_features must be from 1 to {self.out_features}, got {f_out}")
        # Autocast remembers its cast of a whole weight, not of a view.
        whole = f_in == self.in_features and f_out == self.out_features
        weight = self.weight if whole else self.weight[:f_out, :f_in]
        return F.linear(x, weight, None if self.bias is None else self.bias[:f_out])


def active_outputs(conv: nn.Conv2d, c_in: int, c_out: int | None) -> tuple[int, int]:
    """Return how many output channels and groups a convolution of `c_in` channels has, `c_out` if given.

    A depthwise one, which filters each of several channels by itself, narrows along with its input.
    """
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
    channels, groups = (c_in, c_in) if depthwise else (conv.out_channels, conv.groups)
    return channels if c_out is None else c_out, groups


def begin_batch(norm: nn.BatchNorm2d, channels: int) -> tuple[Tensor | None, Tensor | None, bool, float]:
    """Count a batch, and return what `F.batch_norm` needs to treat it as the module would.

    Returns:
        The first `channels` of running mean and variance, to read in evaluation and to update in training,
        or None; whether the batch's own statistics are used; the factor of the update.
    """
    factor = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            factor = 1.0 / float(norm.num_batches_tracked)
    # As in torch: batch statistics while training, or where there are no others; running ones are updated
    # in training only, and only if tracked.
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return None, None, True, factor
    if norm.training and not norm.track_running_stats:
        return None, None, True, factor
    if channels < norm.num_features:  # a view takes longer than a small layer's arithmetic
        mean, var = mean[:channels], var[:channels]
    return mean, var, norm.training, factor
