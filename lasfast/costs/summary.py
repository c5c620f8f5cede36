"""The costs that a study writes beside each measurement."""

from __future__ import annotations

from lasfast.costs.bitops import bitops, is_quantized
from lasfast.costs.flops import HasPath, flops
from lasfast.costs.params import params
from lasfast.spaces import Architecture


def summary(supernet: HasPath, architecture: Architecture, input_size: tuple[int, int]) -> dict[str, float]:
    """Return the costs of an architecture by name.

    They are `flops` (multiply-adds) for one image of `input_size` = (height, width), `params`,
    `params_without_batch_norm`, and `bitops` where layers are quantized.
    """
    found: dict[str, float] = {
        "flops": flops(supernet, architecture, input_size),
        "params": params(supernet, architecture),
        "params_without_batch_norm": params(supernet, architecture, batch_norm=False),
    }
    if is_quantized(supernet.path(architecture)):
        found["bitops"] = bitops(supernet, architecture, input_size)
    return found
