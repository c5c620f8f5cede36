"""Groups: operations in the making, each of the ops of the graph that it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lasfast.engine.schedule import NONE, Call, Kind
from lasfast.ir.layers import Op, Shape
from lasfast.ir.prefix_tree import ROOT


@dataclass(eq=False, slots=True)
class Group:
    """An operation in the making.

    Attributes:
        kind, op: what it computes; an `op` has the sizes of a window and the module of a weight.
        shape: (channels, height, width) of its output.
        last: the number of the last op that it holds, whose value it stores.
        node: the tree's node of that op; ROOT for the images.
        input, other: the values that it reads.
        groups, first: of an arrangement of channels (see csrc/include/lasfast/schedule.h).
        output_norm, activation: applied to each element before it is stored.
        statistics: the norm for which it sums its output.
        level: its place in the order in which levels run.
        leaf: the number of the leaf whose logits it writes; then it stores no value.
        call: what torch runs, of an opaque operation.
    """

    kind: Kind
    op: Op | None
    shape: Shape
    last: int
    node: int = ROOT
    input: Term | None = None
    other: Term | None = None
    groups: int = 1
    first: int = 0
    output_norm: int = NONE
    activation: int = 0
    statistics: int = NONE
    level: int = 0
    leaf: int = NONE
    call: Call | None = None

    def inputs(self) -> tuple[Term, ...]:
        """Return the values that it reads: two, one, or none for the images."""
        if self.input is None:
            return ()
        return (self.input,) if self.other is None else (self.input, self.other)

    @property
    def adds(self) -> bool:
        """True where `other` is added to the result; for some kinds it is an operand."""
        return self.other is not None and self.kind not in (Kind.GATE, Kind.ARRANGE, Kind.OPAQUE)


class Term(NamedTuple):
    """The value that a group stores, as a reader sees it: through a norm and an activation."""

    group: Group
    norm: int = NONE
    activation: int = 0

    @property
    def plain(self) -> bool:
        """True where the value is seen as it is stored."""
        return self.norm == NONE and not self.activation
