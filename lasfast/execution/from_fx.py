"""Read the layer record of an ordinary PyTorch network off its forward."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lasfast.execution.fx_forms import FORMS
from lasfast.execution.fx_modes import alike
from lasfast.execution.fx_ops import UntraceableError
from lasfast.execution.fx_reader import Reader, TracingError, has_batch_norm
from lasfast.ir.layers import Layer, Shape
from lasfast.nn.plain import has_global_hooks, is_plain

__all__ = ["Program", "UntraceableError", "read", "trace"]


@dataclass(frozen=True)
class Program:
    """The program of a network, and what it depends on.

    Attributes:
        layer: the program.
        of_one_size: whether it holds for images of the shape alone for which it was read.
    """

    layer: Layer
    of_one_size: bool


def trace(network: nn.Module, image_shape: Shape) -> Layer:
    """Return the program of a network that takes images `[N, *image_shape]` and gives one tensor.

    `torch.fx` follows the network's forward, in evaluation mode as far as control flow depends on it. A
    module that it cannot follow becomes an opaque op, if it holds no batch norm. So does one with hooks or a
    `forward` of its own. What no other op says becomes `Code`. In-place operations are followed: who reads a
    value afterwards reads the changed one.

    Raises:
        UntraceableError: the network has no such program; the text says where and what to do.
    """
    return read(network, image_shape).layer


def read(network: nn.Module, image_shape: Shape) -> Program:
    """Return what `trace` does, and whether it depends on the size of the images."""
    if not is_plain(network) or has_global_hooks():
        raise UntraceableError("it has hooks or a forward of its own")
    opaque: set[str] = set()
    while True:
        reader = Reader(network, image_shape, opaque, FORMS)
        try:
            return Program(reader.layer(), reader.of_one_size)
        except UntraceableError as error:
            part = error.part
            if not part or part in opaque or has_batch_norm(network.get_submodule(part)):
                raise _explained(network, error) from error
            # Others with the same code will not do better.
            parts = alike(network, part) if isinstance(error, TracingError) else {part}
            opaque |= {one for one in parts if not has_batch_norm(network.get_submodule(one))}


def _explained(network: nn.Module, error: UntraceableError) -> UntraceableError:
    """Return the error with the place where it is in the network, and what to do."""
    part = error.part
    kind = type(network.get_submodule(part)).__name__
    where = f"module {part!r}, a {kind}," if part else f"the network's own forward, of {kind},"
    line = f" at {error.line}" if error.line else ""
    text = (
        f"{where} cannot be read{line}: {error}. Put this code into a module of its own that holds no batch "
        "norm: it is then called as it is"
    )
    return UntraceableError(text, part, error.line)
