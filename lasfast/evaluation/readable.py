"""Networks that are read, so that the native backend calibrates them: several of them in one pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lasfast.engine import NativeBackend, NotLowerableError
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import why_missing
from lasfast.evaluation.norm_recorder import Norms, NormStatistics
from lasfast.execution.from_fx import UntraceableError, read
from lasfast.execution.interpret import evaluation_mode, run_layer
from lasfast.ir.layers import Code, Layer, Opaque, Shape, with_prefix
from lasfast.ir.prefix_tree import PrefixTree


class CannotError(Exception):
    """The native backend cannot run a network, for the reason in the text."""


class SizesError(ValueError):
    """Images of another size have come, for which a network was not read: that of this number."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


@dataclass(frozen=True)
class ReadNetwork:
    """A network, its batch norms, and the layer that computes what it does, for images of a shape.

    Attributes:
        network: the network.
        norms: its batch norms by name.
        layer: what was read of it.
        shape: (channels, height, width) of the images for which it was read.
        of_one_size: whether the layer holds for images of this shape alone.
    """

    network: nn.Module
    norms: Norms
    layer: Layer
    shape: Shape
    of_one_size: bool

    @classmethod
    def of(cls, network: nn.Module, norms: Norms, images: Tensor) -> ReadNetwork:
        """Read a network, for images like these [N, C, H, W]; its modes stay as they are.

        Raises:
            CannotError: the native backend cannot calibrate it.
        """
        missing = why_missing(images.device)
        if missing is not None:
            raise CannotError(missing)
        dtypes = {value.dtype for value in (*network.parameters(), images) if value.is_floating_point()}
        if dtypes != {torch.float32}:
            found = ", ".join(sorted(map(str, dtypes)))
            raise CannotError(f"weights and images are not float32, but {found}")
        with evaluation_mode(network):
            try:
                shape = tuple(images.shape[1:])
                with _in_training(norms):
                    program = read(network, shape)
                lower(PrefixTree([(program.layer,)]), shape, calibration=True)
            except (UntraceableError, NotLowerableError, ValueError) as error:
                raise CannotError(str(error)) from error
            _check_reading(network, norms, program.layer, images[:2])
        return cls(network, norms, program.layer, shape, program.of_one_size)

    def holds(self, shape: Shape) -> bool:
        """Return whether the network computes the same layer for images of another shape."""
        return not self.of_one_size and _is_read_again(self.network, self.norms, self.layer, shape)


def calibrate_read(
    networks: Mapping[int, ReadNetwork], batches: Iterable[Tensor], convention: str, precision: str
) -> dict[int, dict[str, NormStatistics]]:
    """Return the statistics of the batch norms of networks, by the native backend, in one pass.

    What comes of one network does not depend on the others. All are in evaluation mode meanwhile.

    Raises:
        SizesError: a batch has images of a shape for which one of the networks was not read.
    """
    (one, *more) = networks.values()
    # The backend runs one module; a list has several, whose names begin with their places in it.
    root = nn.ModuleList(read.network for read in networks.values()) if more else one.network
    prefixes = [f"{place}." for place in range(len(networks))] if more else [""]
    tree = PrefixTree(
        [(with_prefix(read.layer, prefix),) for read, prefix in zip(networks.values(), prefixes, strict=True)]
    )
    count = 0

    def counted() -> Iterator[Tensor]:
        nonlocal count
        for images in _of_sizes(networks, batches, one.shape):
            count += 1
            yield images

    with ExitStack() as modes:
        for read in networks.values():
            modes.enter_context(evaluation_mode(read.network))
        nodes = NativeBackend(root, precision).calibrate(tree, counted(), convention)
    return {
        number: {
            name.removeprefix(prefix): NormStatistics(mean, variance, count)
            for name, (mean, variance) in nodes[leaf].items()
        }
        for number, prefix, leaf in zip(networks, prefixes, tree.leaves, strict=True)
    }


def _of_sizes(
    networks: Mapping[int, ReadNetwork], batches: Iterable[Tensor], shape: Shape
) -> Iterator[Tensor]:
    """Give batches; raise SizesError where images have a shape for which what was read does not hold."""
    known = {shape}
    for images in batches:
        found = tuple(images.shape[1:])
        for number, network in networks.items() if found not in known else ():
            if not network.holds(found):
                raise SizesError(
                    "images must have one size for backend='native', since this network was read for "
                    f"{shape} and may do otherwise with others, got {found}; backend='torch' takes any",
                    number,
                )
        known.add(found)
        yield images


def _is_read_again(network: nn.Module, norms: Norms, layer: Layer, shape: Shape) -> bool:
    """Return whether a network is read to be the same layer for images of another shape.

    That is so unless there is code, or a module that is called: these were tried with few sizes.
    """
    if not any(isinstance(op, Code | Opaque) for op in layer.ops):
        return True
    try:
        with _in_training(norms):
            return read(network, shape).layer == layer
    except UntraceableError:
        return False


@contextmanager
def _in_training(norms: Norms) -> Iterator[None]:
    """Let norms be in training mode, as they are while images run, and in evaluation mode afterwards."""
    for norm in norms.values():
        norm.training = True
    try:
        yield
    finally:
        for norm in norms.values():
            norm.training = False


def _check_reading(network: nn.Module, norms: Norms, layer: Layer, images: Tensor) -> None:
    """Raise CannotError unless a layer gives what a network gives, at each norm and at the end.

    Reading a network may go wrong in ways that nobody thought of. This is seen before it does harm.
    """
    expected: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    try:
        twins = copy.deepcopy(network), copy.deepcopy(network)  # a call may change a module
    except Exception as error:  # such as of parameters that are computed
        raise CannotError(f"the network cannot be copied, to try what was read: {error}") from error
    modules = dict(twins[1].named_modules())

    def note(name: str) -> Any:
        def hook(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
            expected[name] = inputs[0].clone()

        return hook

    def batch_norm(op: Any, x: Tensor) -> Tensor:
        found[op.module] = x.clone()
        return nn.BatchNorm2d.forward(modules[op.module], x)  # which a subclass may go on from

    for name in norms:
        twins[0].get_submodule(name).register_forward_pre_hook(note(name))
    with torch.no_grad():
        expected["its output"] = twins[0](images.clone())
        found["its output"] = run_layer(layer, images, modules, batch_norm)
    for name, value in expected.items():
        same = name in found and found[name].shape == value.shape
        if not same or not (found[name] - value).norm() <= 1e-3 * value.norm():  # so for NaN, too
            raise CannotError(f"its forward was read, but what is read gives something else for {name!r}")
