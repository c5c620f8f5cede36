"""The records of single nodes of a traced network: what `trace` and `accelerate` both read."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from lasfast.execution.fused_call import normalize
from lasfast.execution.fx_tracer import has_activation
from lasfast.ir import layers
from lasfast.ir.layers import Op
from lasfast.nn import PACT, SlicedBatchNorm2d, SlicedConv2d, SlicedLinear
from lasfast.nn.plain import is_plain
from lasfast.ops.activations import CALLS as ACTIVATION_CALLS
from lasfast.ops.activations import MODULES as ACTIVATION_MODULES


class UntraceableError(Exception):
    """A network, or a part of it, cannot be written as layer records; the text says why.

    Attributes:
        part: the dotted name of the innermost module of the network's own that the error is in.
        line: the line of code that it comes from, as file:line.
    """

    def __init__(self, text: str, part: str = "", line: str = "") -> None:
        super().__init__(text)
        self.part, self.line = part, line


def _conv(name: str, conv: Any) -> Op:
    if conv.padding_mode != "zeros":
        raise UntraceableError(f"convolution {name!r} is padded with other than zeros")
    settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return conv_record(name, conv.weight, conv.bias is not None, *settings)


def conv_record(
    owner: str, weight: torch.Tensor, bias: bool, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Op:
    """Return the record of a convolution with the weight [K, C / groups, R, S] that a module owns."""
    channels, kernel = weight.shape[:2], tuple(weight.shape[2:])
    if padding == "same" and all(taps % 2 for taps in kernel):
        padding = tuple(_square(owner, "dilation", dilation) * (taps // 2) for taps in kernel)
    padding = 0 if padding == "valid" else padding
    if not isinstance(groups, int) or not isinstance(padding, int | tuple | list):
        raise UntraceableError(f"convolution {owner!r} has padding {padding!r} and groups {groups}")
    return layers.Conv2d(
        owner,
        channels[1] * groups,
        channels[0],
        (kernel[0], kernel[1]),
        _square(owner, "stride", stride),
        padding if isinstance(padding, int) else (padding[0], padding[-1]),
        groups,
        bias,
        _square(owner, "dilation", dilation),
    )


def _pad(name: str, pad: Any) -> Op:
    return layers.Pad(tuple(pad.padding), float(getattr(pad, "value", 0.0)))


def _batch_norm(name: str, norm: Any) -> Op:
    return layers.BatchNorm2d(name, norm.num_features, norm.eps, affine=norm.affine)


def _max_pool(name: str, pool: Any) -> Op:
    kernel, stride, padding = (
        _square(name, part, getattr(pool, part)) for part in ("kernel_size", "stride", "padding")
    )
    if pool.ceil_mode or pool.return_indices or _square(name, "dilation", pool.dilation) != 1:
        raise UntraceableError(f"pooling {name!r} is dilated, rounds up or gives indices")
    return layers.Pool("max", kernel, stride, padding)


def _avg_pool(name: str, pool: Any) -> Op:
    kernel, stride, padding = (
        _square(name, part, getattr(pool, part)) for part in ("kernel_size", "stride", "padding")
    )
    if pool.ceil_mode or pool.divisor_override:
        raise UntraceableError(f"pooling {name!r} rounds up or has a divisor of its own")
    return layers.Pool(
        "avg", kernel, stride, padding, counts_padding=bool(padding and pool.count_include_pad)
    )


def _global_pool(name: str, pool: Any) -> Op:
    if pool.output_size not in (1, (1, 1)):
        raise UntraceableError(f"adaptive pooling {name!r} to {pool.output_size}, not to 1")
    return layers.GlobalAvgPool(keep_axes=True)


def _linear(name: str, linear: Any) -> Op:
    return layers.Linear(name, linear.in_features, linear.out_features, linear.bias is not None)


def _flatten(name: str, flatten: Any) -> Op:
    if (flatten.start_dim, flatten.end_dim) != (1, -1):
        raise UntraceableError(f"{name!r} flattens other dimensions than all but the first")
    return layers.Flatten()


def _square(name: str, part: str, value: Any) -> int:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple | list) or len(set(pair)) != 1 or not isinstance(pair[0], int):
        raise UntraceableError(f"{part} of {name!r} is {value}, not the same for both axes")
    return int(pair[0])


def _activation(kind: Any) -> Callable[..., Op]:
    return lambda *_: layers.Activation(kind)


MODULES: dict[type, Callable[[str, Any], Op | None]] = {
    nn.Conv2d: _conv,
    SlicedConv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    SlicedBatchNorm2d: _batch_norm,
    **{module: _activation(name) for name, module in ACTIVATION_MODULES.items()},
    PACT: lambda name, module: layers.Quantize(name, module.bits),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Linear: _linear,
    SlicedLinear: _linear,
    nn.Flatten: _flatten,
    nn.ZeroPad2d: _pad,
    nn.ConstantPad2d: _pad,
    nn.ChannelShuffle: lambda name, module: layers.Shuffle(module.groups),
    nn.Dropout: lambda name, module: layers.Dropout(module.p),
    nn.Identity: lambda name, module: None,
}
"""Makers of the record of a leaf module, from its name and itself; None stands for no operation."""


def maker_of(module: nn.Module) -> Callable[[str, Any], Op | None] | None:
    """Return the maker of a module's record; None where it has none, or computes more than its class says."""
    return MODULES.get(type(module)) if is_plain(module) else None


def norm_maker_of(module: nn.Module) -> Callable[[str, Any], Op | None] | None:
    """Return the maker of the record of a norm, without the activation that may be in it."""
    return _batch_norm if has_activation(module) else maker_of(module)


def _add(node: fx.Node) -> Op | None:
    if len(node.args) != 2 or node.kwargs:
        raise no_record(node)
    if any(isinstance(one, int | float) and one == 0 for one in node.args):
        return None  # `sum` begins with it
    if len(node.all_input_nodes) != len(node.args):
        raise no_record(node)
    return layers.Add()


def _flatten_call(node: fx.Node) -> Op:
    dimensions = (*node.args[1:], *node.kwargs.values())
    if dimensions not in ((1,), (1, -1)):
        raise UntraceableError(f"{named(node)} flattens other dimensions than all but the first")
    return layers.Flatten()


def _mean_call(node: fx.Node) -> Op:
    dimensions = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(dimensions, list | tuple) or sorted(d % 4 for d in dimensions) != [2, 3]:
        raise UntraceableError(f"{named(node)} is not a mean over height and width")
    keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return layers.GlobalAvgPool(bool(keeps))


def _global_pool_call(node: fx.Node) -> Op:
    size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
    if size not in (1, (1, 1), [1, 1]):
        raise UntraceableError(f"{named(node)} does not pool to 1")
    return layers.GlobalAvgPool(keep_axes=True)


def _pool_call(module: type[nn.Module], make: Callable[[str, Any], Op]) -> Callable[[fx.Node], Op]:
    """Return the maker of the record of a function that pools as a module does with these arguments."""

    def of(node: fx.Node) -> Op:
        if len(node.all_input_nodes) != 1:
            raise no_record(node)
        return make(str(node), module(*node.args[1:], **node.kwargs))

    return of


def _dropout_call(node: fx.Node) -> Op | None:
    given = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | node.kwargs
    if given.get("training", True) is not False:
        raise UntraceableError(f"{named(node)} drops values")
    return None


def _shuffle_call(node: fx.Node) -> Op:
    groups = node.args[1] if len(node.args) > 1 else node.kwargs.get("groups")
    if not isinstance(groups, int):
        raise UntraceableError(f"{named(node)} has no fixed number of groups")
    return layers.Shuffle(groups)


def _stochastic_depth(node: fx.Node) -> Op | None:
    if node.args[-1] is not False and node.kwargs.get("training") is not False:
        raise UntraceableError(f"{named(node)} drops images")
    return None


FUNCTIONS: dict[Any, Callable[[fx.Node], Op | None]] = {
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    torch.Tensor.add: _add,
    torch.Tensor.add_: _add,
    torch.flatten: _flatten_call,
    torch.Tensor.flatten: _flatten_call,
    torch.Tensor.mean: _mean_call,
    torch.mean: _mean_call,
    F.adaptive_avg_pool2d: _global_pool_call,
    F.avg_pool2d: _pool_call(nn.AvgPool2d, _avg_pool),
    F.max_pool2d: _pool_call(nn.MaxPool2d, _max_pool),
    F.dropout: _dropout_call,
    **{call: _activation(name) for call, name in ACTIVATION_CALLS.items()},
    F.channel_shuffle: _shuffle_call,
    "torchvision.ops.stochastic_depth.stochastic_depth": _stochastic_depth,
}
"""Makers of the record of a call; the called function is named where lasfast does not import it."""


def record_of(network: nn.Module, node: fx.Node) -> Op | None:
    """Return the record of a node, without the numbers of its inputs; None of one that changes nothing.

    Raises UntraceableError where there is none, of a kind or with these settings.
    """
    if node.op == "call_module":
        name = str(node.target)
        module = network.get_submodule(name)
        only_input(node)
        of_module = maker_of(module)
        if of_module is None:
            raise UntraceableError(f"module {name!r} is a {type(module).__name__}, which has no record")
        return of_module(name, module)
    target = callee(node)
    if target is normalize:
        name = str(node.args[1].target)  # type: ignore[union-attr]
        return _batch_norm(name, network.get_submodule(name))
    make = FUNCTIONS.get(target) or FUNCTIONS.get(
        f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}"
    )
    if make is None:
        raise no_record(node)
    return make(node)


def only_input(node: fx.Node) -> Any:
    """Return what a node reads; raises UntraceableError unless that is one value, and nothing else."""
    if len(node.all_input_nodes) != 1 or len(node.args) != 1 or node.kwargs:
        raise UntraceableError(f"{named(node)} does not read one value alone")
    return node.args[0]


def callee(node: fx.Node) -> Any:
    """Return the function that a node calls, a method as `torch.Tensor` has it; None of other nodes."""
    if node.op == "call_method":
        return getattr(torch.Tensor, str(node.target), None)
    return node.target if node.op == "call_function" else None


def no_record(node: fx.Node) -> UntraceableError:
    """Return the error of a node that records cannot say."""
    return UntraceableError(f"{named(node)} with these arguments is nothing that layer records say")


def named(node: fx.Node) -> str:
    """Return the words for a node, as its code has it."""
    target = node.target
    if node.op == "call_method":
        return f"the method {target}()"
    if node.op != "call_function":
        return f"{'module' if node.op == 'call_module' else 'the value'} {str(target)!r}"
    module, name = (getattr(target, part, "") or "" for part in ("__module__", "__name__"))
    if module == "_operator":
        return f"the operator {name}"
    return f"{module}.{name}()" if module not in ("", "builtins") else f"{name or target}()"
