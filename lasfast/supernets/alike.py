"""Finds modules and code without records that do the same to each channel, of which some can be left out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from lasfast.execution.interpret import function_of
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Shape


def find_alike(model: nn.Module, program: Layer, image_shape: Shape) -> frozenset[int]:
    """Return the numbers of a program's opaque ops and code that do the same to each channel; 1 is the first.

    Activations are of that kind, and so are pooling and resizing. They have no weights or buffers, and are
    tried on random values: with the channels in reverse, and with the first half of them, the output must be
    that of all channels, in reverse and the first half.

    Args:
        model: the network that the program was read off.
        program: its layer.
        image_shape: (channels, height, width) of its images.
    """
    shapes = program.shapes(image_shape)
    example = next(model.parameters(), torch.zeros(0, dtype=torch.float32))
    generator = torch.Generator().manual_seed(0)
    found = set()
    for number, (op, sources) in enumerate(program.steps(), start=1):
        function = _function(model, op)
        channels = {shapes[value][0] for value in (*sources, number)}
        if function is None or len(channels) > 1:
            continue
        inputs = [
            torch.randn(2, *shapes[one], generator=generator, dtype=torch.float32).to(example)
            for one in sources
        ]
        if _is_alike(function, inputs):
            found.add(number)
    return frozenset(found)


def _function(model: nn.Module, op: Op) -> Callable[..., Tensor] | None:
    """Return what an opaque op or code without weights and buffers runs; None of any other."""
    if isinstance(op, layers.Code):
        return None if op.tensors else function_of(op)
    if not isinstance(op, layers.Opaque):
        return None
    module = model.get_submodule(op.module)
    if next(chain(module.parameters(), module.buffers()), None) is not None:
        return None
    return copy.deepcopy(module).eval()


def _is_alike(function: Callable[..., Tensor], inputs: list[Tensor]) -> bool:
    half = inputs[0].shape[1] // 2
    try:
        with torch.no_grad():
            whole, reverse, first = (
                function(*(change(one.clone()) for one in inputs))
                for change in (lambda one: one, lambda one: one.flip(1), lambda one: one[:, :half])
            )
    except Exception:  # whatever code raises that knows the number of channels
        return False
    return _same(reverse, whole.flip(1)) and _same(first, whole[:, :half])


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)
