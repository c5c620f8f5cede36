"""The table of precisions (`lasfast.ir.precision`) in torch's terms."""

from __future__ import annotations

import torch

from lasfast.ir.precision import PRECISIONS

DTYPES: dict[torch.dtype, int] = {getattr(torch, one.dtype): one.code for one in PRECISIONS.values()}
"""The number in native code of each dtype that kernels take."""


def torch_dtype(precision: str) -> torch.dtype:
    """Return the dtype in which a precision stores values."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision].dtype)
    return dtype


def may_round_to_tf32() -> bool:
    """Return whether fp32 convolutions on CUDA, PyTorch's and lasfast's, may round their operands to TF32."""
    newer = getattr(torch.backends.cudnn, "conv", None)
    return bool(torch.backends.cudnn.allow_tf32 if newer is None else newer.fp32_precision == "tf32")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which torch computes in a precision; in "fp32" it changes nothing."""
    enabled = precision != "fp32"
    return torch.autocast(device.type, torch_dtype(precision) if enabled else None, enabled=enabled)
