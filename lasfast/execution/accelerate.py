"""`accelerate`: the convolutions, batch norms, sums and activations of any network, fused."""

from __future__ import annotations

import torch
from torch import fx, nn

from lasfast.execution.fx_ops import UntraceableError, record_of
from lasfast.execution.fx_tracer import Tracer
from lasfast.ir.fusion import Chain, Stage, match
from lasfast.ir.layers import Activation, Op, Opaque
from lasfast.nn.conv_bn_act import fused
from lasfast.ops.activations import FUNCTIONS
from lasfast.ops.sliced_conv2d_schema import output_size

_OTHER = Opaque("", out_channels=1)
"""The record of a node that fusion does not know: it can be the head of a fused chain, no other part."""


def accelerate(model: nn.Module) -> fx.GraphModule:
    """Return a module that computes what `model` does, with lasfast's fused operators, forward and backward.

    Each `nn.BatchNorm2d` takes in the convolution whose output it alone reads, a sum with another value of
    the same shape, and the activation behind: ``act(batch_norm(conv(x)) + other)`` in few passes over
    memory. Everything else stays torch's. Weights and buffers are those of `model`, not copies, under
    the same names: a state dict moves both ways, and training the one trains the other. Convolution weights
    are put into channels_last. Training mode and evaluation mode, autocast, and `torch.compile` work as
    before; hooks of modules that were fused are not called. On a GPU where lasfast's kernels failed their
    check (see `lasfast.runtime.gpu_check`), PyTorch's compute the same.

    Args:
        model: any network that `torch.fx` can trace: no control flow that depends on tensors.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `model` cannot be traced, or its `forward` itself differs between training and evaluation
            (its modules may differ); the message says where.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got a {type(model).__name__}")
    rewritten = fx.GraphModule(model, _trace(model), type(model).__name__)
    nodes = list(rewritten.graph.nodes)
    for chain in _chains(rewritten, nodes):
        if Stage.NORM in chain.parts:
            _fuse(rewritten, {stage: nodes[number] for stage, number in chain.parts.items()})
    rewritten.recompile()
    rewritten.training = model.training  # its modules are the model's, each in a mode of its own
    return rewritten.to(memory_format=torch.channels_last)


def _trace(model: nn.Module) -> fx.Graph:
    """Return the graph of a model; ValueError unless it is the same in training and in evaluation."""
    mode = {name: module.training for name, module in model.named_modules()}
    graphs = []
    try:
        for training in (False, True):
            model.train(training)
            graphs.append(Tracer().trace(model))
    except Exception as error:
        raise ValueError(
            f"model must be traceable by torch.fx, got a {type(model).__name__} that is not: {error}"
        ) from error
    finally:
        for name, module in model.named_modules():
            module.training = mode[name]
    evaluation, training_graph = (str(graph.python_code("self").src) for graph in graphs)
    if evaluation != training_graph:
        line = next(
            (one for one in training_graph.splitlines() if one not in evaluation.splitlines()), training_graph
        )
        raise ValueError(
            "model must compute the same in training as in evaluation, but for what its modules do "
            f"(nn.Dropout, not F.dropout); got a {type(model).__name__} that computes `{line.strip()}` in "
            "training alone"
        )
    return graphs[1]


def _chains(network: fx.GraphModule, nodes: list[fx.Node]) -> list[Chain]:
    """Return the chains of a graph, whose ops and values have the numbers of their nodes.

    The graph itself is matched, not records made of the whole of it: it may hold what records cannot say.
    """
    numbers = {node: number for number, node in enumerate(nodes)}
    ops = {
        number: (_record(network, node), [numbers[source] for source in node.all_input_nodes])
        for node, number in numbers.items()
    }
    return match(ops, (), lambda number: _is_head(network, nodes[number]))


def _record(network: fx.GraphModule, node: fx.Node) -> Op:
    """Return the record of a node, as `trace` reads it; `_OTHER` where it has none."""
    try:
        return record_of(network, node) or _OTHER
    except UntraceableError:
        return _OTHER


def _is_head(network: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node is a convolution that the fused operator can run."""
    conv = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    return (
        type(conv) is nn.Conv2d
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.padding[0] == conv.padding[1]
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
    )


def _fuse(network: fx.GraphModule, parts: dict[Stage, fx.Node]) -> None:
    """Replace the nodes of a chain by one."""
    graph, chain = network.graph, list(parts.values())
    conv, norm, added = parts.get(Stage.HEAD), parts[Stage.NORM], parts.get(Stage.SUM)
    residual = None if added is None else next(one for one in added.all_input_nodes if one is not norm)
    record = _record(network, chain[-1])
    activation = record.kind if isinstance(record, Activation) else "none"
    with graph.inserting_before(chain[-1]):
        convolution = None if conv is None else graph.get_attr(str(conv.target))
        normalization = graph.get_attr(str(norm.target))
        arguments = (*chain[0].all_input_nodes, convolution, normalization, residual, activation)
        node = graph.call_function(run, arguments)
    node.meta["is_wrapped"] = True  # unpickling traces the code again, and must not go into it
    chain[-1].replace_all_uses_with(node)
    for one in reversed(chain):
        graph.erase_node(one)


def run(
    x: torch.Tensor,
    conv: nn.Conv2d | None,
    norm: nn.BatchNorm2d,
    residual: torch.Tensor | None,
    activation: str,
) -> torch.Tensor:
    """Return `act(norm(conv(x)) + residual)`, where the residual may be broadcast; fused nodes call this."""
    if residual is None or residual.shape == _output_shape(x, conv):
        return fused(x, conv, norm, residual, activation)
    return FUNCTIONS[activation](fused(x, conv, norm) + residual)  # it is broadcast


def _output_shape(x: torch.Tensor, conv: nn.Conv2d | None) -> tuple[int, ...]:
    if conv is None:
        return tuple(x.shape)
    return output_size(x.shape, conv.out_channels, conv.kernel_size, conv.stride[0], int(conv.padding[0]))
