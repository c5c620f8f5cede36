"""Lowering: a plan becomes a schedule of fused operations, for calibration or for prediction.

The plan's ops, those of all candidates, are one graph of values. A chain of ops, as `lasfast.ir.fusion` has
them, becomes one operation: the op itself, the batch norm of its output, the residual that is added, the
activation. What cannot be chained is left to the readers, who apply a batch norm and an activation to each
element as they load it. Concatenations, shuffles and
slices of channels that follow each other become one arrangement of the channels that they begin with.

In calibration the statistics of a batch norm are known only once its whole input is, so a batch norm is
always left to the readers, and the operation before it takes the statistics as it stores.

What has no native operation becomes an opaque one, which torch runs between ranges of native ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lasfast.engine.resident import depth_first
from lasfast.engine.schedule import MAX_KERNEL, BatchNorm, Call, Kind, Schedule
from lasfast.engine.schedule_builder import NONE, Group, Term, emit
from lasfast.ir import layers
from lasfast.ir.activations import ACTIVATIONS
from lasfast.ir.fusion import Fusion, Stage, stage_of
from lasfast.ir.layers import Layer, Op, Shape
from lasfast.ir.prefix_tree import ROOT, PrefixTree


class NotLowerableError(Exception):
    """A layer holds an op that even torch cannot run between native operations."""

    def __init__(self, layer: Layer, op: Op, why: str) -> None:
        super().__init__(f"layer {layer.name!r}: {type(op).__name__}: {why}")


@dataclass
class _Entry:
    """An op of the graph; `shape` (channels, height, width) of its output, 1 x 1 for features.

    `call` is set where it has no native operation.
    """

    op: Op | None
    sources: tuple[int, ...]
    shape: Shape
    node: int
    call: Call | None = None
    uses: int = 0


def lower(
    plan: PrefixTree, image_shape: Shape, *, calibration: bool, width: int | None = 1, cuda: bool = False
) -> Schedule:
    """Return the schedule of one pass over images [N, *image_shape], for the CPU or for CUDA.

    At most `width` operations are of one level, those that come first in the plan's depth-first order: 1
    holds the fewest values at a time; None runs as many together as can. On the CPU, prediction has no use
    for levels. Raises NotLowerableError.
    """
    lowering = _Lowering(plan, image_shape, calibration)
    return emit(
        lowering.groups,
        lowering.batch_norms,
        lowering.leaves,
        lowering.classes,
        by_levels=calibration or cuda,
        width=width,
        cuda=cuda,
        depth_first=lowering.depth_first() if cuda and not calibration else None,
    )


class _Lowering:
    def __init__(self, plan: PrefixTree, image_shape: Shape, calibration: bool) -> None:
        self.plan = plan
        self.calibration = calibration
        self.classes = 0
        self.entries: list[_Entry] = [_Entry(None, (), image_shape, ROOT)]
        self.groups: list[Group] = []
        self.batch_norms: list[BatchNorm] = []
        self.leaves = tuple(sorted(set(plan.leaves)))
        outputs = self._make_graph()
        self.fusion = Fusion([entry.uses for entry in self.entries], bare=True)
        self.begun: dict[int, Group] = {}  # by the entry that began it
        self.terms: list[Term] = [Term(self._new_group(Kind.INPUT, 0))]
        for index in range(1, len(self.entries)):
            self.terms.append(self._add(index))
        if not calibration:
            for number, leaf in enumerate(self.leaves):
                self._make_leaf(number, outputs[leaf])

    def depth_first(self) -> list[Group]:
        """The groups in an order in which few values wait for other branches of the tree."""
        places = depth_first(self.plan, self.entries[0].shape)
        nodes = [*(entry.node for entry in self.entries), *self.leaves]  # leaves may have groups of their own
        return sorted(
            self.groups,
            key=lambda group: (-1 if nodes[group.last] == ROOT else places[nodes[group.last]], group.last),
        )

    def _make_graph(self) -> dict[int, int]:
        """Fill `entries`; return the entry of each node's output. Dropout and flattening vanish."""
        outputs = {ROOT: 0}
        # Shapes as the layers see them: flattened features, where an entry stays an image.
        shapes: dict[int, Shape] = {ROOT: self.entries[0].shape}
        for node_index, node in enumerate(self.plan.nodes):
            layer = node.layer
            values = [outputs[node.parent]]
            layer_shapes = _shapes(layer, shapes[node.parent])
            for (op, numbers), shape in zip(layer.steps(), layer_shapes[1:], strict=True):
                sources = tuple(values[number] for number in numbers)
                if isinstance(op, layers.Dropout | layers.Flatten):
                    values.append(sources[0])
                    continue
                stored: Shape = shape if len(shape) == 3 else (shape[0], 1, 1)
                call = None
                if not _is_native(op, [self.entries[source].shape for source in sources]):
                    if len(shape) not in (1, 3) or len(sources) > 2:
                        raise NotLowerableError(
                            layer, op, f"makes a value of shape {shape} of {len(sources)} value(s)"
                        )
                    flat = tuple(len(layer_shapes[number]) == 1 for number in numbers)
                    call = Call(layer, op, shape, flat)
                elif isinstance(op, layers.Activation | layers.Add):
                    stored = self.entries[sources[0]].shape
                for source in sources:
                    self.entries[source].uses += 1
                self.entries.append(_Entry(op, sources, stored, node_index, call))
                values.append(len(self.entries) - 1)
            outputs[node_index], shapes[node_index] = values[-1], layer_shapes[-1]
            if not node.uses:
                if not self.calibration:
                    self._check_leaf(layer, self.entries[values[-1]].shape, layer_shapes[-1])
                self.entries[values[-1]].uses += 1
        return outputs

    def _check_leaf(self, layer: Layer, stored: Shape, shape: Shape) -> None:
        if len(shape) != 1 or stored[1:] != (1, 1) or self.classes not in (0, shape[0]):
            raise NotLowerableError(
                layer, layer.ops[-1], f"ends a path with a value of shape {shape}, stored as {stored}"
            )
        self.classes = shape[0]

    def _new_group(
        self, kind: Kind, index: int, input: Term | None = None, other: Term | None = None
    ) -> Group:
        entry = self.entries[index]
        group = Group(kind, entry.op, entry.shape, index, input, other)
        self.groups.append(group)
        if entry.op is not None and kind not in _ALONE:
            # The second operand of these stands where others have what they add.
            barred = (Stage.SUM,) if kind in (Kind.GATE, Kind.ARRANGE) else ()
            self.fusion.begin(index, stage_of(entry.op), barred)
            self.begun[index] = group
        return group

    def _chained(self, index: int) -> Group | None:
        """The group that takes an op in; None where the op is left to the readers, or begins a group."""
        entry = self.entries[index]
        assert entry.op is not None
        stage = stage_of(entry.op)
        if stage == Stage.NORM and self.calibration:
            return None  # its statistics are known too late
        chain = self.fusion.extend(index, entry.op, entry.sources)
        if chain is None:
            return None
        group = self.begun[chain.first]
        group.last = index
        if isinstance(entry.op, layers.Activation):
            group.activation = ACTIVATIONS[entry.op.kind].code
        elif stage == Stage.SUM:
            assert chain.other is not None
            group.other = self.terms[chain.other]
        return group

    def _add(self, index: int) -> Term:
        """Lower one op: extend a group, leave it to the readers, or begin a new group."""
        entry = self.entries[index]
        op = entry.op
        if entry.call is not None:
            return Term(self._add_opaque(entry.call, index))
        if isinstance(op, layers.BatchNorm2d):
            return self._add_batch_norm(op, index)
        group = self._chained(index)
        if group is not None:
            return Term(group)
        first, *others = (self.terms[source] for source in entry.sources)
        if isinstance(op, layers.Activation):
            number = ACTIVATIONS[op.kind].code
            if not first.activation:
                return Term(first.group, first.norm, number)
            group = self._new_group(Kind.COMBINE, index, first)
            group.activation = number
            return Term(group)
        if isinstance(op, layers.Shuffle | layers.Slice):
            return Term(self._add_arrangement(op, index))
        return Term(self._new_group(_kind(op), index, first, *others))

    def _add_opaque(self, call: Call, index: int) -> Group:
        """Let torch run an op, on values as they are stored."""
        terms = []
        for source in self.entries[index].sources:
            term = self.terms[source]
            if term.norm != NONE or term.activation:
                term = Term(Group(Kind.COMBINE, None, term.group.shape, index, term))
                self.groups.append(term.group)
            terms.append(term)
        group = self._new_group(Kind.OPAQUE, index, *terms)
        group.call = call
        return group

    def _add_batch_norm(self, op: layers.BatchNorm2d, index: int) -> Term:
        entry = self.entries[index]
        source = entry.sources[0]
        norm = len(self.batch_norms)
        _, height, width = entry.shape
        self.batch_norms.append(BatchNorm(entry.node, op.module, op.channels, op.eps, height * width))
        term = self.terms[source]
        if self.calibration:
            group = term.group
            fresh = group.kind in _WITH_STATISTICS and group.last == source and group.statistics == NONE
            if not fresh or group.activation or group.adds:
                group = Group(Kind.COMBINE, op, entry.shape, index, term)
                self.groups.append(group)
            group.statistics = norm
            return Term(group, norm)
        chained = self._chained(index)
        if chained is not None:
            chained.output_norm = norm
            return Term(chained)
        if term.norm == NONE and not term.activation:
            return Term(term.group, norm)
        group = self._new_group(Kind.COMBINE, index, term)
        group.output_norm = norm
        return Term(group)

    def _add_arrangement(self, op: layers.Shuffle | layers.Slice, index: int) -> Group:
        """Take the channels from where an arrangement just before takes them, if the form allows."""
        term = self.terms[self.entries[index].sources[0]]
        before = term.group
        stored = before.output_norm == term.norm == NONE and not before.activation and not term.activation
        in_order = before.groups == 1 and before.shape[0] == sum(
            one.group.shape[0] for one in before.inputs()
        )
        if before.kind == Kind.ARRANGE and stored and (in_order or isinstance(op, layers.Slice)):
            group = self._new_group(Kind.ARRANGE, index, before.input, before.other)
            group.groups, group.first = before.groups, before.first
        else:
            group = self._new_group(Kind.ARRANGE, index, term)
        if isinstance(op, layers.Slice):
            group.first += op.start
        else:
            group.groups = op.groups
        return group

    def _make_leaf(self, number: int, entry: int) -> None:
        """Let the group of a path's output write logits."""
        term = self.terms[entry]
        group = term.group
        plain = term.norm == NONE and not term.activation and self.entries[entry].uses == 1
        if not plain or group.kind not in (Kind.LINEAR, Kind.COMBINE):
            group = Group(Kind.COMBINE, None, self.entries[entry].shape, len(self.entries) + number, term)
            self.groups.append(group)
        group.leaf = number


_NATIVE = (
    layers.BatchNorm2d,
    layers.Activation,
    layers.GlobalAvgPool,
    layers.Linear,
    layers.Concat,
    layers.Shuffle,
    layers.Slice,
)
_WITH_STATISTICS = (Kind.CONV2D, Kind.GATE, Kind.ARRANGE)
_ALONE = (Kind.INPUT, Kind.OPAQUE)
"""Kinds that nothing is fused with."""


def _is_native(op: Op, inputs: list[Shape]) -> bool:
    """Whether there is a native operation for an op on stored values of these shapes."""
    if isinstance(op, layers.Conv2d):
        dense = op.groups == 1 or op.groups == op.in_channels == op.out_channels
        return dense and op.dilation == 1 and op.padding < op.kernel_size <= MAX_KERNEL
    if isinstance(op, layers.Pool):
        return op.kernel_size <= MAX_KERNEL
    if isinstance(op, layers.Add):
        # They may be of one shape in the layer, but one of them flattened there.
        first, second = inputs
        return first[1:] == second[1:] and second[0] <= first[0]
    if isinstance(op, layers.Multiply):
        return inputs[1] == (inputs[0][0], 1, 1)
    return isinstance(op, _NATIVE)


def _kind(op: Op | None) -> Kind:
    if isinstance(op, layers.Pool):
        return Kind.MAX_POOL if op.kind == "max" else Kind.AVG_POOL
    kinds: dict[type, Kind] = {
        layers.Conv2d: Kind.CONV2D,
        layers.GlobalAvgPool: Kind.GLOBAL_POOL,
        layers.Linear: Kind.LINEAR,
        layers.Add: Kind.COMBINE,
        layers.Multiply: Kind.GATE,
        layers.Concat: Kind.ARRANGE,
    }
    return kinds[type(op)]


@lru_cache(maxsize=4096)
def _shapes(layer: Layer, input_shape: Shape) -> tuple[Shape, ...]:
    return layer.shapes(input_shape)
