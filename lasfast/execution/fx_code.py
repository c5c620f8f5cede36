"""Pieces of a traced network that no other record says, as the text of a function."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lasfast.execution.fx_ops import UntraceableError
from lasfast.execution.interpret import function_of
from lasfast.ir.layers import Code, Shape

_MOST_ELEMENTS = 256
_OTHERS = (1e4, -1e4, torch.inf)  # what images hold beside one that must give the same
_IMAGES = 4  # with which code is tried: an even number, so that none keeps its place where they are reversed
_IMPORTS = {
    "torch": "import torch",
    "device": "from torch import device",
    "inf": "from math import inf",
    "nan": "from math import nan",
    "NoneType": "NoneType = type(None)",
}
"""The lines that give the names which `torch.fx` writes without saying where they come from."""


def piece_of(node: fx.Node, known: Collection[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return the nodes that compute a node, it the last, and the known ones that these read."""
    found, inputs, ahead = {node}, set(), [node]
    while ahead:
        for source in ahead.pop().all_input_nodes:
            if source in known:
                inputs.add(source)
            elif source not in found:
                found.add(source)
                ahead.append(source)
    order = [one for one in node.graph.nodes if one in found or one in inputs]
    return [one for one in order if one in found], [one for one in order if one in inputs]


def code_of(
    network: nn.Module,
    piece: Sequence[fx.Node],
    values: Mapping[fx.Node, int],
    shapes: Sequence[Shape],
    constants: Mapping[str, Tensor],
    *,
    writes: bool,
) -> tuple[Code, tuple[int, ...]]:
    """Return the record of a piece of a graph, and the numbers of the values that it reads.

    Args:
        network: the module that the graph is of.
        piece: nodes in their order; the last one is the result.
        values: the numbers of the values that nodes outside the piece are.
        shapes: the shape of each value, by its number.
        constants: tensors that the network's code makes, by the names under which nodes read them.
        writes: whether the last node changes what it reads, and has to get copies.

    Raises:
        UntraceableError: the piece is no function of one or two values that treats images independently.
    """
    read = [one for node in piece for one in node.all_input_nodes if one in values]
    numbers = dict.fromkeys(values[one] for one in read)
    if not 1 <= len(numbers) <= Code.MOST_READS:
        raise UntraceableError(f"it computes with {len(numbers)} values at once")
    like = next(network.parameters(), torch.zeros(0, dtype=torch.float32))
    found = []
    for order in permutations(numbers):
        places = {one: order.index(values[one]) for one in read}
        of_inputs = [shapes[number] for number in order]
        op, tensors = _written(network, piece, places, constants, copies=writes)
        if not _takes_any_strides(op, tensors, of_inputs, like):
            op, tensors = _written(network, piece, places, constants, copies=writes, contiguous=True)
        op = _tried(op, tensors, of_inputs, like)
        if op.shape is None:
            return op, order
        found.append((op, order))
    return found[0]


def _written(
    network: nn.Module,
    piece: Sequence[fx.Node],
    places: Mapping[fx.Node, int],
    constants: Mapping[str, Tensor],
    *,
    copies: bool,
    contiguous: bool = False,
) -> tuple[Code, list[Tensor]]:
    """Return the record of a piece whose inputs have these places, without a shape, and what it reads.

    It may get copies of its inputs, which it changes, or have them contiguous, as views want them.
    """
    graph = fx.Graph()
    count = 1 + max(places.values())
    inputs = [graph.placeholder(f"x{number}") for number in range(count)]
    names = list(dict.fromkeys(_name(node) for node in piece if node.op == "get_attr"))
    names = [name for name in names if name not in constants]
    taken = {name: graph.placeholder(f"p{number}") for number, name in enumerate(names)}
    given = inputs
    for method in ("clone",) * copies + ("contiguous",) * contiguous:
        given = [graph.call_method(method, (one,)) for one in given]
    made: dict[fx.Node, fx.Node] = {node: given[place] for node, place in places.items()}
    for node in piece:
        if node.op == "get_attr":
            name = _name(node)
            made[node] = _literal(graph, constants[name], inputs[0]) if name in constants else taken[name]
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), made.__getitem__)
        made[node] = graph.create_node(node.op, node.target, args, kwargs)
    graph.output(made[piece[-1]])
    code = graph.python_code("self")
    text = code.src.replace("def forward(self, ", "def code(").strip()
    tensors = [_tensor(network, name) for name in names]
    params = sum(one.numel() for one in tensors if isinstance(one, nn.Parameter))
    source = "\n".join([*_imports(text, code.globals), text])
    return Code(source, count, tuple(names), None, params), tensors


def _name(node: fx.Node) -> str:
    return str(node.target)


def _literal(graph: fx.Graph, value: Tensor, beside: fx.Node) -> fx.Node:
    """Append a small tensor as its numbers, on the device of a value."""
    if value.numel() > _MOST_ELEMENTS:
        raise UntraceableError(f"its code makes a tensor of {value.numel()} elements")
    device = graph.call_function(getattr, (beside, "device"))
    return graph.call_function(torch.tensor, (value.tolist(),), {"dtype": value.dtype, "device": device})


def _imports(text: str, names: Mapping[str, Any]) -> list[str]:
    """Return the lines that give the names which a text uses."""
    lines = []
    for name, value in names.items():
        if not re.search(rf"\b{name}\b", text):
            continue
        module, kind = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if name in _IMPORTS:
            lines.append(_IMPORTS[name])
        elif module and kind.isidentifier():
            lines.append(f"from {module} import {kind} as {name}")
        else:
            raise UntraceableError(f"it uses {name}, which has no name to import it by")
    return lines


def _tensor(network: nn.Module, name: str) -> Tensor:
    """Return a parameter or a buffer; UntraceableError for those of batch norms, which change."""
    owner, _, last = name.rpartition(".")
    module = network.get_submodule(owner)
    value = getattr(module, last)
    if isinstance(module, _BatchNorm) or not isinstance(value, Tensor):
        raise UntraceableError(f"it computes with {name!r}")
    return value


def _takes_any_strides(op: Code, tensors: Sequence[Tensor], shapes: Sequence[Shape], like: Tensor) -> bool:
    """Return whether code gives the same for inputs whose dimensions lie in memory the other way round.

    The network's own code may have met contiguous values only. In lasfast, or after `contiguous`, which a
    record does not say, they may have any strides.
    """
    with _same_randomness(like):
        inputs = _inputs(shapes, like)
        expected = _run(op, tensors, inputs)
        try:
            result = _run(op, tensors, [_reversed(one) for one in inputs])
        except UntraceableError:
            return False
    return _same(result, expected)


def _reversed(value: Tensor) -> Tensor:
    """Return a copy whose first dimension is the quickest to vary in memory, and the last the slowest."""
    order = tuple(reversed(range(value.dim())))
    return value.permute(order).contiguous().permute(order)


def _tried(op: Code, tensors: Sequence[Tensor], shapes: Sequence[Shape], like: Tensor) -> Code:
    """Return the record with its output's shape, having tried that it treats images independently.

    Each image gives the same alone and among others, whatever these hold. Values have the dtype and the
    device of `like`. Where the output has the shape of the first value for a larger image, too, it does so
    for all.
    """
    with _same_randomness(like):
        inputs = _inputs(shapes, like)
        result = _run(op, tensors, inputs)
        shape = tuple(result.shape[1:])
        found = [(_run(op, tensors, inputs), result)]
        for value in _OTHERS:
            beside = [one.clone() for one in inputs]
            for one in beside:
                one[0], one[2:] = value, value
            found.append((_run(op, tensors, beside)[1], result[1]))
        for image in range(_IMAGES):
            alone = slice(image, image + 1)
            found.append((_run(op, tensors, [one[alone] for one in inputs]), result[alone]))
        if not all(_same(*pair) for pair in found):
            raise UntraceableError("it draws random numbers, or mixes images of a batch")
        follows = shape == shapes[0] and _follows(op, tensors, shapes, like)
        return op if follows else replace(op, shape=shape)


@contextmanager
def _same_randomness(like: Tensor) -> Iterator[None]:
    """Let random numbers on the device of a value be those of one seed; later ones do not notice."""
    with torch.no_grad(), torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.manual_seed(0)
        yield


def _inputs(shapes: Sequence[Shape], like: Tensor) -> list[Tensor]:
    return [torch.randn(_IMAGES, *shape, dtype=like.dtype, device=like.device) for shape in shapes]


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True)


def _run(op: Code, tensors: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    given = [*inputs, *(one.detach().clone() for one in tensors)]  # the network's own stay as they are
    before = [one.clone() for one in given]
    try:
        result: Any = function_of(op)(*given)
    except Exception as error:  # whatever the network's own code raises
        raise UntraceableError(f"its code fails on random numbers: {error}") from error
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.dim() < 2:
        raise UntraceableError("it gives other than images or features")
    kept = all(bool(((one == now) | one.isnan()).all()) for one, now in zip(before, given, strict=True))
    if len(result) != len(inputs[0]) or not kept:
        raise UntraceableError("it does not give one result for each image, or changes what it reads")
    return result


def _follows(op: Code, tensors: Sequence[Tensor], shapes: Sequence[Shape], like: Tensor) -> bool:
    """Return whether the output has the shape of the first value for images of another size, too."""
    sizes = shapes[0][1:]
    if not sizes:
        return True
    larger = [
        (shape[0], *(size + 2 * axis for axis, size in enumerate(sizes, 1))) if shape[1:] == sizes else shape
        for shape in shapes
    ]
    inputs = [torch.zeros(2, *shape, dtype=like.dtype, device=like.device) for shape in larger]
    try:
        return tuple(_run(op, tensors, inputs).shape[1:]) == larger[0]
    except UntraceableError:
        return False
