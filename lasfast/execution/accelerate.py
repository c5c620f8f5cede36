"""`accelerate`: the convolutions, batch norms, sums and activations of any network, fused."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from lasfast.execution.choice import (
    FUSED,
    MODES,
    ONE_PASS,
    OWN,
    OWN_IN_CHANNELS_LAST,
    OnePass,
    quickest_ways,
)
from lasfast.execution.fused_call import as_contiguous, run, run_depthwise
from lasfast.execution.fx_memory import Memory, effect_of, is_known, is_outside
from lasfast.execution.fx_modes import Reading, read_in_both_modes
from lasfast.execution.fx_ops import UntraceableError, callee, record_of
from lasfast.execution.fx_tracer import LEAVES
from lasfast.execution.interpret import evaluation_mode
from lasfast.execution.structure import Structure
from lasfast.ir.fusion import Chain, Stage, match
from lasfast.ir.layers import Activation, Op, Opaque
from lasfast.nn import depthwise
from lasfast.nn.plain import is_plain
from lasfast.ops.derivatives import is_transformed

_OTHER = Opaque("", out_channels=1)
"""The record of a node that fusion does not know: it can be the head of a fused chain, no other part."""
CONSTANTS = "_lasfast_constants"
"""The attribute of an accelerated model that has the tensors which its code makes."""


def accelerate(
    model: nn.Module, images: Tensor | None = None, one_pass: Callable[[nn.Module], OnePass] | None = None
) -> nn.Module:
    """Return a module that computes what `model` does, in other ways; see `lasfast.evaluation.accelerate`.

    `one_pass` makes what runs a network as one pass of the compiled module. With `images`, that is a way to
    run the model in evaluation mode, if it can.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got a {type(model).__name__}")
    if images is not None and not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got a {type(images).__name__}")
    if isinstance(model, _Accelerated):
        model = model._lasfast_original()
    return _accelerated(model, None if images is None else _measured(model, images, one_pass), one_pass)


_Maker = Callable[[nn.Module], OnePass] | None


def _measured(model: nn.Module, images: Tensor, one_pass: _Maker) -> dict[bool, str]:
    """Return the quickest way to run a model in each mode; the model stays as it is."""
    network = _accelerated(copy.deepcopy(model), dict.fromkeys(MODES, FUSED), one_pass)
    assert isinstance(network, _Accelerated)
    offered = [OWN, FUSED]
    if network._lasfast_is_layout_free and images.dim() == 4:
        offered.insert(1, OWN_IN_CHANNELS_LAST)
    runs = {way: functools.partial(network._lasfast_run, way) for way in (*offered, ONE_PASS)}
    in_mode = {True: offered, False: [*offered, ONE_PASS] if _has_one_pass(network, images) else offered}
    code = "\n".join(graph.python_code("self").src for graph in network._lasfast_graphs.values())
    by_mode = {mode: {way: runs[way] for way in ways} for mode, ways in in_mode.items()}
    return quickest_ways(by_mode, network, images, code)


def _has_one_pass(network: _Accelerated, images: Tensor) -> bool:
    """Return whether a network in evaluation mode can be run as one pass of the compiled module."""
    assert isinstance(network, nn.Module)
    one_pass = network._lasfast_one_pass
    if one_pass is None or not network._lasfast_keeps_arguments:
        return False
    with evaluation_mode(network), torch.no_grad():
        return one_pass.run(images) is not None


def _accelerated(model: nn.Module, ways: dict[bool, str] | None, one_pass: _Maker) -> nn.Module:
    """Return a module that shares everything with a model, and runs in some way in each mode.

    Without ways, all is fused, and weights are laid out for that.
    """
    reading = read_in_both_modes(model)
    graphs = [_FusedGraph(model, one, reading.layout_free) for one in dict.fromkeys(reading.graphs.values())]
    for graph in graphs:
        graph.fuse(moves_weights=ways is None)
    return _with_forward(model, reading, graphs, ways, one_pass)


class _Accelerated:
    """A mixin of accelerated models: what is copied and pickled is the model, which is accelerated again."""

    training: bool
    _lasfast_kind: type[nn.Module]
    _lasfast_graphs: dict[bool, fx.Graph]
    _lasfast_is_layout_free: bool
    _lasfast_run: Callable[..., Any]
    _lasfast_ways: dict[bool, str] | None
    _lasfast_keeps_arguments: bool
    _lasfast_maker: _Maker
    _lasfast_one_pass: OnePass | None
    _lasfast_constants: nn.Module

    @property
    def fused_graph(self) -> fx.Graph | None:
        """The graph that the model runs in its present mode; None where it runs its own forward."""
        is_fused = self._lasfast_ways is None or self._lasfast_ways[self.training] == FUSED
        return self._lasfast_graphs[self.training] if is_fused else None

    def extra_repr(self) -> str:
        """Say what runs in each mode, if that was chosen, before what the model's class says."""
        own = str(super().extra_repr())  # type: ignore[misc]
        if self._lasfast_ways is None:
            return own
        said = [f"{mode}: {_WORDS[self._lasfast_ways[training]]}" for training, mode in MODES.items()]
        return ", ".join([*said, own] if own else said)

    def _lasfast_original(self) -> nn.Module:
        """Return a module of the model's own class that shares everything with this one."""
        assert isinstance(self, nn.Module)
        model: nn.Module = _shared(self, self._lasfast_kind)
        del vars(model)[CONSTANTS], vars(model)[_PASS]
        return model

    def train(self, mode: bool = True) -> Any:
        """Change the mode; changes of weights that nobody has counted (see `OnePass`) are then seen."""
        if self._lasfast_one_pass is not None:
            self._lasfast_one_pass.forget()
        return super().train(mode)  # type: ignore[misc]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """Move the constants, too: they are no buffers, since the model has the same buffers."""
        self._lasfast_constants._apply(fn)
        return super()._apply(fn, recurse)  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        original = copy.deepcopy(self._lasfast_original(), memo)
        result = memo[id(self)] = _accelerated_again(original, self._lasfast_ways, self._lasfast_maker)
        return result

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _accelerated_again, (self._lasfast_original(), self._lasfast_ways, self._lasfast_maker)


_PASS = "_lasfast_one_pass"
_WORDS = {
    OWN: "own forward",
    OWN_IN_CHANNELS_LAST: "own forward in channels_last",
    FUSED: "fused",
    ONE_PASS: "one pass",
}


def _accelerated_again(
    model: nn.Module, ways: dict[bool, str] | None = None, one_pass: _Maker = None
) -> nn.Module:
    """Return an accelerated copy of a model that was read before.

    It is the model itself where modules have changed since so that it cannot be read: an accelerated network
    runs the model's own forward then, too.
    """
    try:
        return _accelerated(model, ways, one_pass)
    except ValueError:
        return model


def _with_forward(
    model: nn.Module,
    reading: Reading,
    fused_graphs: list[_FusedGraph],
    ways: dict[bool, str] | None,
    one_pass: _Maker,
) -> nn.Module:
    """Return a module that shares everything with a model, and runs graphs instead of its forward.

    Where a graph is pinned to the usual order of elements in memory, arguments and weights must have this
    order, too.
    """
    is_pinned = any(graph.pinned for graph in fused_graphs)
    kind = type(model)
    graphs = list(dict.fromkeys(reading.graphs.values()))
    constants = nn.Module()
    for name, value in reading.constants.items():
        constants.register_buffer(name, value, persistent=False)
    for node in (node for graph in graphs for node in graph.nodes):
        if node.op == "get_attr" and node.target in reading.constants:
            node.target = f"{CONSTANTS}.{node.target}"
    runs: dict[fx.Graph, Callable[..., Any]] = {}
    required = sum(node.op == "placeholder" for node in reading.graphs[True].nodes)
    structure: Structure

    def run_in(self: nn.Module, way: str, /, *args: Any, **kwargs: Any) -> Any:
        if way == OWN:
            return kind.forward(self, *args, **kwargs)
        as_read = not kwargs and len(args) == required and all(isinstance(x, torch.Tensor) for x in args)
        if is_pinned and way != ONE_PASS:  # which reads weights in any layout, and gives no views
            as_read = as_read and all(x.is_contiguous() for x in (*args, *self.parameters()))
        # What a compiler compiles it watches by itself.
        if not as_read or not (torch.compiler.is_compiling() or structure.holds()):
            return kind.forward(self, *args, **kwargs)
        if way == OWN_IN_CHANNELS_LAST:
            return _in_channels_last(kind.forward, self, *args)
        if way == ONE_PASS:
            run = vars(self)[_PASS].run
            result = run(*args) if len(args) == 1 else None
            return kind.forward(self, *args) if result is None else result
        return runs[reading.graphs[self.training]](*args)

    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return run_in(self, FUSED if ways is None else ways[self.training], *args, **kwargs)

    members = {
        "forward": forward,
        "_lasfast_kind": kind,
        "_lasfast_graphs": reading.graphs,
        "_lasfast_is_layout_free": all(graph.is_layout_free for graph in fused_graphs),
        "_lasfast_run": run_in,
        "_lasfast_ways": ways,
        "_lasfast_keeps_arguments": not any(graph.changes_arguments() for graph in fused_graphs),
        "_lasfast_maker": one_pass,
        "__module__": kind.__module__,
    }
    try:
        accelerated = type(f"Accelerated{kind.__name__}", (_Accelerated, kind), members)
    except TypeError as error:  # its class wants arguments, or lets nobody inherit
        raise ValueError(f"model must be of a class that others can inherit from: {error}") from error
    network: nn.Module = _shared(model, accelerated)
    vars(network)[CONSTANTS] = constants
    vars(network)[_PASS] = None if one_pass is None else one_pass(model)
    structure = Structure(network, _called(graphs))
    runs |= {graph: _compiled(graph, network, kind.__name__) for graph in graphs}
    return network


def _in_channels_last(forward: Callable[..., Any], network: nn.Module, *args: Tensor) -> Any:
    """Return what a forward gives for images in channels_last, in the usual order; as it is in transforms."""
    if is_transformed():
        return forward(network, *args)
    laid_out = (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in args)
    return tree_map(as_contiguous, forward(network, *laid_out))


def _called(graphs: list[fx.Graph]) -> set[str]:
    """Return the names of the modules that graphs call, none that they read."""
    nodes = [node for graph in graphs for node in graph.nodes]
    read = {str(node.target) for node in nodes if node.op == "get_attr"}
    return {str(node.target) for node in nodes if node.op == "call_module"} - read


def _compiled(graph: fx.Graph, network: nn.Module, name: str) -> Callable[..., Any]:
    """Return the function that runs a graph of a network, while this has the modules that it has now.

    These are looked up once: by their dotted names, that takes as long at each call as to run small layers.
    """
    flat = fx.Graph()
    flat.output(flat.graph_copy(graph, {}))
    modules = SimpleNamespace()
    owners = dict(network.named_modules(remove_duplicate=False)) | {CONSTANTS: vars(network)[CONSTANTS]}
    keys = {name: f"m{number}" for number, name in enumerate(owners)}
    for node in flat.nodes:
        if node.op not in ("get_attr", "call_module"):
            continue
        target = str(node.target)
        owner, _, attribute = (target, "", "") if target in owners else target.rpartition(".")
        setattr(modules, keys[owner], owners[owner])
        node.target = f"{keys[owner]}.{attribute}" if attribute else keys[owner]
    code = flat.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, f"<accelerated {name}>", "exec"), names)
    return functools.partial(names["forward"], modules)


def _shared(model: nn.Module, kind: type) -> Any:
    """Return a module of another class with the attributes of a model, the same objects.

    What replaces a parameter, a buffer or a submodule of the one does so in the other: they have one table.
    """
    result: Any = object.__new__(kind)
    vars(result).update(vars(model))
    for one in kind.__mro__:
        for name in one.__dict__.get("__slots__", ()):
            if hasattr(model, name):
                setattr(result, name, getattr(model, name))
    return result


class _FusedGraph:
    """The graph of a model, whose chains become single nodes where nobody could tell.

    Once fused, it `is_layout_free` where the model computes the same for images in channels_last.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, layout_free: Collection[str]) -> None:
        self.model, self.graph, self.layout_free = model, graph, layout_free
        self.is_layout_free = False
        self.modules = dict(model.named_modules())
        self.nodes = list(self.graph.nodes)
        self.places = {node: number for number, node in enumerate(self.nodes)}
        self.memory = Memory()
        self.writes: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self.shares: dict[fx.Node, tuple[fx.Node, ...]] = {}
        for node in self.nodes:
            effect = effect_of(node, self.modules)
            self.memory.add(node, effect.shares)
            self.writes[node], self.shares[node] = effect.writes, effect.shares
        self.calls = Counter(module for node in self.nodes for module in self._reached(node))
        self.changed = {  # the modules of which nodes may change parameters
            module
            for writes in self.writes.values()
            for written in writes
            for other in self.memory.sharing(written)
            if other.op == "get_attr"
            for module in self._reached(other)
        }
        self.pinned = {
            self.memory.place(value)
            for node in self.nodes
            for value in self._perhaps_copied(node)
            if (
                self._is_told_from_copies(node)
                if value is node
                else self._is_written(value, self.places[node], len(self.nodes), [])
            )
        }
        asking = [node for node in self.nodes if self._may_ask_for_layout(node)]
        self.copying = [node for node in asking if self._takes_copies(node)]
        self.pinned |= {
            self.memory.place(value)
            for node in asking
            if node not in self.copying
            for value in node.all_input_nodes
        }

    def fuse(self, *, moves_weights: bool) -> None:
        """Fuse all chains that may be; then let values be in channels_last, and weights if these may move."""
        movable = [parts for chain in self._chains() if (parts := self._movable_part(chain))]
        if not movable or not self.pinned.isdisjoint(self._in_other_layouts()):
            return
        follows_layout = self._follow_layout()
        self.is_layout_free = not follows_layout and not self.changes_arguments()
        if moves_weights and not follows_layout:
            self._put_weights_into_channels_last()
        for parts in movable:
            self._fuse(parts)
        [output] = [node for node in self.graph.nodes if node.op == "output"]
        for result in output.all_input_nodes:
            with self.graph.inserting_before(output):
                output.replace_input_with(result, self._wrapped(as_contiguous, result))
        self.graph.lint()

    def _reached(self, node: fx.Node) -> Iterator[nn.Module]:
        """Give the modules that a node calls, or whose parameters and buffers it reads."""
        if node.op == "call_module":
            yield from self.modules[str(node.target)].modules()
        elif node.op == "get_attr":
            name = str(node.target)
            owner = self.modules.get(name) or self.modules.get(name.rpartition(".")[0])
            if owner is not None:
                yield owner

    def _chains(self) -> list[Chain]:
        """Return the chains of the graph, whose ops and values have the numbers of their nodes.

        The graph itself is matched, not records made of the whole of it: it may hold what records cannot say.
        """
        ops = {
            number: (self._record(node), [self.places[source] for source in node.all_input_nodes])
            for node, number in self.places.items()
        }
        return match(ops, (), lambda number: self._is_head(self.nodes[number]))

    def _record(self, node: fx.Node) -> Op:
        """Return the record of a node, as `trace` reads it; `_OTHER` where it has none."""
        try:
            return record_of(self.model, node) or _OTHER
        except UntraceableError:
            return _OTHER

    def _convolution(self, node: fx.Node) -> nn.Conv2d | None:
        """Return the plain convolution that a node calls; None where it calls none."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        return module if type(module) is nn.Conv2d and is_plain(module) else None

    def _is_head(self, node: fx.Node) -> bool:
        """Return whether a node is a convolution that the fused operator can run."""
        conv = self._convolution(node)
        return (
            conv is not None
            and conv.bias is None
            and conv.dilation == (1, 1)
            and depthwise.has_equal_axes(conv)
        )

    def _movable_part(self, chain: Chain) -> dict[Stage, fx.Node]:
        """Return the longest beginning of a chain that may run where it ends, and that has a kernel.

        It goes up to the norm at least, or is a depthwise convolution alone.
        """
        parts = {stage: self.nodes[number] for stage, number in chain.parts.items()}
        while parts and not (self._has_kernel(parts) and self._is_movable(parts)):
            parts.popitem()
        return parts

    def _has_kernel(self, parts: dict[Stage, fx.Node]) -> bool:
        if Stage.NORM in parts:
            return True
        conv = self._convolution(parts[Stage.HEAD]) if Stage.HEAD in parts else None
        return conv is not None and depthwise.takes(conv)

    def _is_movable(self, parts: dict[Stage, fx.Node]) -> bool:
        """Return whether nobody can tell that all of a chain runs where its last node does, out of place."""
        chain = list(parts.values())
        end = self.places[chain[-1]]
        if Stage.NORM in parts and self.calls[self.modules[_norm_of(parts[Stage.NORM])]] > 1:
            return False  # its statistics would be updated in another order
        if any(self.memory.place(node) in self.pinned for node in chain):
            return False
        head = parts.get(Stage.HEAD)
        if head is not None and self.modules[str(head.target)] in self.changed:
            return False
        for stage, node in parts.items():
            place = self.places[node]
            # Unlike PyTorch's sums, the fused operator needs the other value for gradients, too.
            until = len(self.nodes) if stage == Stage.SUM else end
            for source in node.all_input_nodes:
                if source not in chain and self._is_written(source, place, until, chain):
                    return False
            for written in self.writes[node]:
                if any(self._sees(other, place, end, chain) for other in self.memory.sharing(written)):
                    return False
        return True

    def changes_arguments(self) -> bool:
        """Return whether a node may change what the caller gave: then a copy will not do."""
        written = (one for writes in self.writes.values() for one in writes)
        return any(other.op == "placeholder" for one in written for other in self.memory.sharing(one))

    def _is_written(self, value: fx.Node, start: int, end: int, chain: list[fx.Node]) -> bool:
        """Return whether a node between two places, outside a chain, may change a value."""
        place = self.memory.place(value)
        return any(
            self.memory.place(written) is place
            for node in self.nodes[start + 1 : end]
            if node not in chain
            for written in self.writes[node]
        )

    def _is_told_from_copies(self, node: fx.Node) -> bool:
        """Return whether anybody could tell whether a node gives a view of what it reads, or a copy.

        That is so where a change through the one is seen through the other.
        """
        views = {node}
        for other in self.nodes[self.places[node] + 1 :]:
            if not views.isdisjoint(self.shares[other]):
                views.add(other)
        others = {one for one in self.memory.sharing(node) if one not in views}
        for other in self.nodes[self.places[node] + 1 :]:
            if not others.isdisjoint(self.shares[other]):
                others.add(other)
        for place in range(self.places[node] + 1, len(self.nodes)):
            for written in self.writes[self.nodes[place]]:
                seen = (others if written in views else set()) | (views if written in others else set())
                readers = {user for one in seen for user in one.users}
                if any(map(is_outside, seen)) or any(self.places[one] >= place for one in readers):
                    return True
        return False

    def _sees(self, value: fx.Node, place: int, end: int, chain: list[fx.Node]) -> bool:
        """Return whether somebody reads a value from before the chain's end after a place in it."""
        if value in chain or self.places[value] > end:
            return False
        return is_outside(value) or any(
            self.places[user] > place for user in value.users if user not in chain
        )

    def _put_weights_into_channels_last(self) -> None:
        """Put weights of convolutions into the layout of the values that kernels work on.

        Values that PyTorch computes from such weights have it, too: also those of the model itself.
        """
        for node in self.nodes:
            conv = self._convolution(node)
            if conv is not None and self.calls[conv] == 1:
                conv.to(memory_format=torch.channels_last)

    def _in_other_layouts(self) -> set[fx.Node]:
        """Return the places of values that may be in channels_last in the model, whatever its images are."""
        found: set[fx.Node] = set()
        for node in self.nodes:
            is_ours = node.op == "call_module" and type(self.modules[str(node.target)]) in LEAVES
            given = (*node.args, *node.kwargs.values())
            is_asked = any(isinstance(one, torch.memory_format) for one in given)
            if is_ours or is_asked or not found.isdisjoint(map(self.memory.place, node.all_input_nodes)):
                found.add(self.memory.place(node))
        return found

    def _follow_layout(self) -> bool:
        """Let values be in channels_last, but where code asks for the usual order of elements in memory.

        Returns whether there is such code.
        """
        views = [
            node
            for node in self.nodes
            if node.op == "call_method" and node.target in _RESHAPES and _is_shape(node.args[1:])
        ]
        for node in self.nodes:
            is_pinned = self.memory.place(node) in self.pinned
            if is_pinned and not self.shares[node] and not is_outside(node):
                self._replace_by_contiguous(node)
        for node in views:
            if self.memory.place(node) not in self.pinned:
                node.target = _RESHAPES[str(node.target)]
        for node in self.copying:
            with self.graph.inserting_before(node):
                for source in node.all_input_nodes:
                    node.replace_input_with(source, self._wrapped(as_contiguous, source))
        return bool(self.pinned or views or self.copying)

    def _replace_by_contiguous(self, node: fx.Node) -> None:
        with self.graph.inserting_after(node):
            contiguous = self._wrapped(as_contiguous, node)
        node.replace_all_uses_with(contiguous, lambda user: user is not contiguous)

    def _perhaps_copied(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """Return the values that a node copies where they lie in another order than it needs.

        A write to one of them afterwards also changes the copy, unless there is one: what a node gives in
        another shape or order, and what lasfast's operators keep for gradients.
        """
        inputs = tuple(node.all_input_nodes)
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return inputs if type(module) in LEAVES else (node,) if isinstance(module, nn.Flatten) else ()
        if callee(node) in (run, run_depthwise):
            return inputs
        return (node,) if getattr(callee(node), "__name__", "") in _MAY_COPY else ()

    def _may_ask_for_layout(self, node: fx.Node) -> bool:
        """Return whether a node calls a module whose code may ask for the usual order of elements."""
        if node.op != "call_module":
            return False
        name = str(node.target)
        return not is_known(self.modules[name]) and name not in self.layout_free

    def _takes_copies(self, node: fx.Node) -> bool:
        """Return whether nobody can tell that a module gets copies of what it reads.

        Whoever reads values from before could, and the caller, where images, parameters or buffers change.
        """
        return not any(
            self._sees(other, self.places[node], len(self.nodes), [node])
            for source in node.all_input_nodes
            for other in self.memory.sharing(source)
            if self.places[other] < self.places[node] and (self.writes[node] or not is_outside(other))
        )

    def _fuse(self, parts: dict[Stage, fx.Node]) -> None:
        """Replace the nodes of a chain by one."""
        if Stage.NORM not in parts:
            self._replace_depthwise(parts[Stage.HEAD])
            return
        chain = list(parts.values())
        conv, norm, added = parts.get(Stage.HEAD), parts[Stage.NORM], parts.get(Stage.SUM)
        residual = None if added is None else next(one for one in added.all_input_nodes if one is not norm)
        record = self._record(chain[-1])
        activation = record.kind if isinstance(record, Activation) else "none"
        with self.graph.inserting_before(chain[-1]):
            convolution = None if conv is None else self.graph.get_attr(str(conv.target))
            normalization = self.graph.get_attr(_norm_of(norm))
            arguments = (chain[0].args[0], convolution, normalization, residual, activation)
            node = self._wrapped(run, *arguments)
        chain[-1].replace_all_uses_with(node)
        read = (
            [] if norm.op == "call_module" else [one for one in norm.all_input_nodes if one.op == "get_attr"]
        )
        for one in (*reversed(chain), *read):
            self.graph.erase_node(one)

    def _replace_depthwise(self, conv: fx.Node) -> None:
        with self.graph.inserting_before(conv):
            module = self.graph.get_attr(str(conv.target))
            node = self._wrapped(run_depthwise, conv.args[0], module)
        conv.replace_all_uses_with(node)
        self.graph.erase_node(conv)

    def _wrapped(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        """Append a call that tracing the code again must not go into."""
        node = self.graph.call_function(function, arguments)
        node.meta["is_wrapped"] = True
        return node


_RESHAPES = {"view": "reshape", "view_as": "reshape_as"}
_MAY_COPY = (*_RESHAPES, *_RESHAPES.values(), "contiguous", "flatten", "ravel", "to")


def _norm_of(node: fx.Node) -> str:
    """Return the name of the norm that a node computes: the module that it calls, or `normalize` reads."""
    source: Any = node if node.op == "call_module" else node.args[1]
    return str(source.target)


def _is_shape(arguments: tuple[Any, ...]) -> bool:
    """Return whether a view's arguments are a shape, and no dtype."""
    return all(isinstance(one, int | fx.Node | tuple | list) for one in arguments)
