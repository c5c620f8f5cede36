"""Packs weights for convolutions on a GPU: one before its layer, or all of a pass together before it begins.

Which weights are packed is known once a pass has run: whether lasfast's kernels are the fastest for a layer
depends on the size of its input. A pass that comes again, with batches of the same size, packs what it packed
the time before.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor, nn

from lasfast.ops.sliced_conv2d import Convolution
from lasfast.ops.sliced_conv2d_kernels import NhwcKernels, Packed, pack

REMEMBERED = 64
"""Passes of which it is known what they pack."""


class Ready(NamedTuple):
    """A weight that was packed before the pass began, and the version of the tensor that it was then."""

    packed: Packed
    version: int


class Packings:
    """Packs the weights of passes, each of which is known by a key, together."""

    def __init__(self) -> None:
        self._packed: dict[Hashable, dict[tuple[NhwcKernels, nn.Parameter], None]] = {}
        self._ready: dict[tuple[NhwcKernels, nn.Parameter], Ready] = {}

    @contextmanager
    def ahead(self, key: Hashable) -> Iterator[None]:
        """Pack now what the block packed when it last ran with this key, and see what it packs this time."""
        known = list(self._packed.pop(key, ()))
        self._used = self._packed[key] = {}
        if len(self._packed) > REMEMBERED:
            del self._packed[next(iter(self._packed))]
        if len(known) == 1:  # its layer begins early behind the launch that packs it
            known = []
        packed = pack(known, ahead=True) if known else []
        self._ready = {one: Ready(result, one[1]._version) for one, result in zip(known, packed, strict=True)}
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            self._ready = {}

    def find(self, kernels: NhwcKernels, weight: nn.Parameter) -> Packed | None:
        """Return the weight as it was packed ahead; None where it was not, or has changed."""
        self._used[kernels, weight] = None
        ready = self._ready.get((kernels, weight))
        return ready.packed if ready is not None and ready.version == weight._version else None


_current: ContextVar[Packings | None] = ContextVar("packings", default=None)


def packed(convolution: Convolution, weight: Tensor) -> Packed | None:
    """Return a weight packed for a convolution's passes; None where these do not take it packed."""
    kernels, packings = convolution.packing, _current.get()
    if kernels is None:
        return None
    found = None
    if packings is not None and isinstance(weight, nn.Parameter):  # others may not live on
        found = packings.find(kernels, weight)
    return found or pack([(kernels, weight)], ahead=False)[0]
