"""The narrower and shallower versions of one network, as layer records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, pairwise, takewhile
from math import lcm, sqrt
from typing import Literal, TypeAlias

from lasfast.ir import layers
from lasfast.ir.channels import ChannelGroup, find_channels, narrowed
from lasfast.ir.layers import Layer, Op, Path, Shape
from lasfast.ir.stages import cut, find_stages, part
from lasfast.spaces import Architecture, ChoiceSpace, LayerAssignmentSpace

Vary = Literal["widths", "depth", "both"]

ROUNDED_TO = 8
"""The number that widths are multiples of, since kernels compute so many channels at once."""
GOLDEN_RATIO = (1 + sqrt(5)) / 2


@dataclass(frozen=True)
class Width:
    """The decision how many channels of a group are kept.

    Attributes:
        number: the number of the group among the program's.
        modules: the names of the modules that write the channels.
        options: the numbers of channels to choose from, ascending; the last one is all of them.
    """

    number: int
    modules: tuple[str, ...]
    options: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The size that each option gives: a number of channels."""
        return self.options

    def __str__(self) -> str:
        return f"{_few(self.modules)}: {' '.join(map(str, self.options))} channels"


@dataclass(frozen=True)
class Depth:
    """The decision how many blocks of a stage are kept.

    Attributes:
        staying: how many blocks stay.
        layers: the numbers of the layers that may be left out, in order; the last ones are left out first.
        names: their names.
    """

    staying: int
    layers: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The size that each option gives: a number of blocks."""
        return tuple(self.staying + more for more in range(len(self.layers) + 1))

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options, by the number of blocks: d1, d2, ..."""
        return tuple(f"d{size}" for size in self.sizes)

    def __str__(self) -> str:
        return f"{' '.join(self.options)}; may be left out: {_few(self.names)}"


Decision: TypeAlias = Width | Depth


class ElasticNetwork:
    """A network whose layers can be narrowed and left out.

    Args:
        program: the whole network, whose values are all read.
        image_shape: (channels, height, width) of the images.
        vary: what may vary: "widths", "depth" or "both".
        shares: the widths to choose from, as shares of the network's own; 1 is always among them.
        kept: the names of modules that stay as they are.
        alike: the numbers of opaque ops and of code that do the same to each channel (see `find_channels`).

    Attributes:
        decisions: what may vary, in the order of the network.
        fixed: (what, why) of each group of channels that keeps its width.
        space: the space of the decisions: a `LayerAssignmentSpace` for depth alone, else a `ChoiceSpace`
            whose options are numbers of channels, as 16, and of blocks, as d2.
        groups: the groups of the program's channels, by number.

    Raises:
        ValueError: nothing may vary.
    """

    def __init__(
        self,
        program: Layer,
        image_shape: Shape,
        *,
        vary: Vary = "both",
        shares: Sequence[float],
        kept: Collection[str] = (),
        alike: Collection[int] = (),
    ) -> None:
        self._steps = tuple(program.steps())
        self._channels = find_channels(program, image_shape, kept, alike)
        self.groups = self._channels.groups
        self._entries_of_all = [shape[0] for shape in program.shapes(image_shape)]
        self._spans = cut(program)
        names = _names([[self._steps[number - 1][0] for number in span] for span in self._spans])
        self._layers = tuple(map(part, [program] * len(names), self._spans, names))
        self._touched = tuple(map(self._groups_of, self._spans))
        widths, self.fixed = self._find_widths(shares)
        depths = [
            Depth(staying, optional, tuple(names[number] for number in optional))
            for staying, optional in find_stages(self._layers, kept)
        ]
        self.decisions = self._ordered(widths if vary != "depth" else [], depths if vary != "widths" else [])
        if not self.decisions:
            what = {"widths": "a width", "depth": "a block", "both": "a width or a block"}[vary]
            raise ValueError(f"model must have {what} that may vary, got none.\n{self.explanation()}")
        self.space = _space(self.decisions, vary)
        self._made: dict[tuple[int, ...], Layer] = {}

    @property
    def narrowed_groups(self) -> list[ChannelGroup]:
        """The groups of channels that a decision narrows."""
        return [self.groups[one.number] for one in self.decisions if isinstance(one, Width)]

    def path(self, architecture: Architecture) -> Path:
        """Return the layers of an architecture; ValueError for an invalid one."""
        chosen = self.space.validate(architecture)
        widths = [group.channels for group in self.groups]
        left_out: set[int] = set()
        for decision, options, taken in zip(self.decisions, self.space.options, chosen, strict=True):
            place = options.index(taken)
            if isinstance(decision, Width):
                widths[decision.number] = decision.options[place]
            else:
                left_out.update(decision.layers[place:])
        left = (number for number in range(len(self._layers)) if number not in left_out)
        return tuple(self._layer(number, widths) for number in left)

    def scaled(self) -> Iterator[Architecture]:
        """Give architectures that are scaled alike everywhere, from the smallest to the whole network.

        Each decision takes the option that is nearest to one share of the network's own size. The share of
        the blocks grows first, that of the channels once all blocks are there. Decisions for which two
        options are equally near take the larger one in turn, in an order that is spread over the network
        (multiples of the golden ratio), so that costs grow in small steps.
        """
        places = [0] * len(self.decisions)

        def architecture() -> Architecture:
            return tuple(options[place] for options, place in zip(self.space.options, places, strict=True))

        yield architecture()
        for kind in (Depth, Width):
            turns = [
                ((low + high) / 2 / decision.sizes[-1], number * GOLDEN_RATIO % 1, number)
                for number, decision in enumerate(self.decisions)
                if isinstance(decision, kind)
                for low, high in pairwise(decision.sizes)
            ]
            for _, _, number in sorted(turns):
                places[number] += 1
                yield architecture()

    def explanation(self) -> str:
        """Return text that says what may vary, and what keeps its width and why."""
        lines = ["widths:"] * any(isinstance(one, Width) for one in self.decisions)
        lines += [f"  {one}" for one in self.decisions if isinstance(one, Width)]
        lines += ["depths, in blocks:"] * any(isinstance(one, Depth) for one in self.decisions)
        lines += [f"  {one}" for one in self.decisions if isinstance(one, Depth)]
        reasons: dict[str, list[str]] = {}
        for what, why in self.fixed:
            reasons.setdefault(why, []).append(what)
        lines += ["of fixed width:"] * bool(reasons)
        lines += [f"  {_few(what)}: {why}" for why, what in reasons.items()]
        return "\n".join(lines)

    def _layer(self, number: int, widths: Sequence[int]) -> Layer:
        """Return a layer where each group of channels has a width."""
        key = (number, *(widths[group] for group in self._touched[number]))
        if key not in self._made:
            layer = self._layers[number]
            ops = []
            for place, op in zip(self._spans[number], layer.ops, strict=True):
                source = self._steps[place - 1][1][0]
                ops.append(narrowed(op, self._entries(source, widths), self._entries(place, widths)))
            self._made[key] = replace(layer, ops=tuple(ops))
        return self._made[key]

    def _entries(self, value: int, widths: Sequence[int]) -> int:
        """Return how many channels, or features, a value has."""
        number = self._channels.of_value[value]
        if self.groups[number].fixed:  # perhaps since its values have different numbers
            return self._entries_of_all[value]
        return widths[number] * self._channels.spread[value]

    def _groups_of(self, span: Iterable[int]) -> tuple[int, ...]:
        """Return the numbers of the groups whose widths the records of some ops depend on."""
        values = {value for place in span for value in (place, *self._steps[place - 1][1])}
        return tuple(sorted({self._channels.of_value[value] for value in values}))

    def _find_widths(self, shares: Sequence[float]) -> tuple[list[Width], tuple[tuple[str, str], ...]]:
        """Return the groups that can be narrowed, and those that cannot, each with the reasons."""
        found, fixed = [], []
        norms = {op.module for op, _ in self._steps if isinstance(op, layers.BatchNorm2d)}
        for number, group in enumerate(self.groups):
            modules = [axis.module for axis in group.axes if axis.module not in norms]
            written = [axis.module for axis in group.axes if not axis.dimension and axis.module in modules]
            options = _options(group, shares)
            reasons = group.fixed
            if not reasons and len(options) == 1:
                multiple = lcm(ROUNDED_TO, group.block)
                reasons = (f"none of their shares {tuple(shares)} is near a smaller multiple of {multiple}",)
            if not reasons:
                found.append(Width(number, tuple(written), options))
            elif modules:
                what = written[0] if written else f"the input of {modules[0]}"
                fixed.append((f"{what} ({group.channels})", "; ".join(reasons)))
        return found, tuple(fixed)

    def _ordered(self, widths: Sequence[Width], depths: Sequence[Depth]) -> tuple[Decision, ...]:
        """Return the decisions in the order of the network; a stage's depth comes before widths inside it."""
        first = {group: value for value, group in reversed(list(enumerate(self._channels.of_value)))}
        placed: list[tuple[float, Decision]] = [(first[one.number], one) for one in widths]
        placed += [(self._spans[one.layers[0]][0] - 0.5, one) for one in depths]
        return tuple(decision for _, decision in sorted(placed, key=lambda one: one[0]))


def _options(group: ChannelGroup, shares: Sequence[float]) -> tuple[int, ...]:
    """Return the numbers of channels to choose from: shares rounded to whole blocks and multiples of 8."""
    multiple = lcm(ROUNDED_TO, group.block)
    near = {max(multiple, multiple * round(share * group.channels / multiple)) for share in shares}
    return (*sorted(one for one in near if one < group.channels), group.channels)


def _space(decisions: Sequence[Decision], vary: Vary) -> ChoiceSpace | LayerAssignmentSpace:
    if vary == "depth":
        return LayerAssignmentSpace(len(decisions), [len(one.options) for one in decisions])
    return ChoiceSpace(
        [one.options for one in decisions], largest=[len(one.options) - 1 for one in decisions]
    )


def _names(ops_of_layers: Iterable[Sequence[Op]]) -> list[str]:
    """Return a name for each layer: what its modules' names begin with, the first one, or its first op's."""
    names: list[str] = []
    for ops in ops_of_layers:
        modules = [op.module for op in ops if hasattr(op, "module")]
        levels = zip(*(module.split(".") for module in modules), strict=False)
        common = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
        name = common or (modules[0] if modules else type(ops[0]).__name__.lower())
        others = (f"{name}_{number}" for number in count(2))
        names.append(next(one for one in chain([name], others) if one not in names))
    return names


def _few(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names, and how many others there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
