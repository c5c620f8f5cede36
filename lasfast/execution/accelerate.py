"""`accelerate`: the convolutions, batch norms, sums and activations of any network, fused."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from lasfast.nn.conv_bn_act import fused
from lasfast.ops.activations import FUNCTIONS, MODULES

_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu: "relu",
    F.relu6: "relu6",
    F.hardswish: "hardswish",
    F.silu: "swish",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    F.hardsigmoid: "hardsigmoid",
}
_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}
_SUMS = {operator.add, operator.iadd, torch.add}


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
        ValueError: it cannot be traced, or computes something else in training than in evaluation besides
            what its modules do; the text says what.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    graph = _trace(model)
    rewritten = fx.GraphModule(model, graph, type(model).__name__)
    for node in list(graph.nodes):
        if type(_module(rewritten, node)) is nn.BatchNorm2d:
            _fuse(rewritten, node)
    rewritten.recompile()
    rewritten.training = model.training  # its modules are the model's, each in a mode of its own
    return rewritten.to(memory_format=torch.channels_last)


def _trace(model: nn.Module) -> fx.Graph:
    """The graph of a model, which must be the same in training and in evaluation."""
    mode = {name: module.training for name, module in model.named_modules()}
    graphs = []
    try:
        for training in (False, True):
            model.train(training)
            graphs.append(fx.Tracer().trace(model))
    except Exception as error:
        raise ValueError(f"model, a {type(model).__name__}, cannot be traced by torch.fx: {error}") from error
    finally:
        for name, module in model.named_modules():
            module.training = mode[name]
    evaluation, training_graph = (str(graph.python_code("self").src) for graph in graphs)
    if evaluation != training_graph:
        line = next(
            (one for one in training_graph.splitlines() if one not in evaluation.splitlines()), training_graph
        )
        raise ValueError(
            f"model, a {type(model).__name__}, computes something else in training than in evaluation, as "
            f"in `{line.strip()}`; expected such differences in modules only (nn.Dropout, not F.dropout)"
        )
    return graphs[1]


def _fuse(network: fx.GraphModule, norm: fx.Node) -> None:
    """Put one node in the place of a batch norm and its neighbours."""
    chain, inputs = [norm], norm.all_input_nodes
    conv = inputs[0] if _fits(network, inputs[0]) else None
    if conv is not None:
        chain.insert(0, conv)
        inputs = conv.all_input_nodes
    residual, activation = None, "none"
    user = _only_user(norm)
    if user is not None and _is_sum(user):
        first, second = user.all_input_nodes
        residual = second if first is norm else first
        chain.append(user)
        user = _only_user(user)
    if user is not None and (kind := _activation(network, user)):
        activation = kind
        chain.append(user)
    graph = network.graph
    with graph.inserting_before(chain[-1]):
        convolution = None if conv is None else graph.get_attr(str(conv.target))
        arguments = (*inputs, convolution, graph.get_attr(str(norm.target)), residual, activation)
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
    """What a fused node calls: `act(norm(conv(x)) + residual)`, whatever can be added."""
    if residual is None or residual.shape == _output_shape(x, conv):
        return fused(x, conv, norm, residual, activation)
    return FUNCTIONS[activation](fused(x, conv, norm) + residual)  # it is broadcast


def _output_shape(x: torch.Tensor, conv: nn.Conv2d | None) -> tuple[int, ...]:
    if conv is None:
        return tuple(x.shape)
    padding, stride = int(conv.padding[0]), conv.stride[0]
    sizes = (
        (size + 2 * padding - kernel) // stride + 1
        for size, kernel in zip(x.shape[2:], conv.kernel_size, strict=True)
    )
    return (x.shape[0], conv.out_channels, *sizes)


def _module(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _fits(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a convolution that the fused operator has, and read by one node alone."""
    conv = _module(network, node)
    return (
        type(conv) is nn.Conv2d
        and len(node.users) == 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.padding[0] == conv.padding[1]
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
    )


def _is_sum(node: fx.Node) -> bool:
    is_add = (node.op == "call_function" and node.target in _SUMS) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )
    return is_add and len(node.all_input_nodes) == 2 and len(node.args) == 2 and not node.kwargs


def _activation(network: fx.GraphModule, node: fx.Node) -> str | None:
    if len(node.all_input_nodes) != 1:
        return None
    if node.op == "call_module":
        kind = type(_module(network, node))
        return next((name for name, one in MODULES.items() if one is kind), None)
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    return _FUNCTIONS.get(node.target)
