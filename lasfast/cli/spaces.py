"""`lasfast spaces`: list the supernets, how many architectures they hold, and the decisions of these."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

import torch
import typer
from rich.console import Console

from lasfast import costs
from lasfast.cli.display import make_console
from lasfast.cli.options import FamilyOptions, SizeOptions, SupernetOptions, command
from lasfast.cli.setup import (
    CHOICE_FAMILIES,
    FAMILIES,
    GROUPS,
    OWN_OPTIONS,
    ChoicesNet,
    ImageKind,
    make_choice_supernet,
    make_supernet,
)
from lasfast.core.checks import check_choice
from lasfast.report.tables import make_table
from lasfast.spaces.choice import VirtualLayer

LAYERS = 6  # of each group of the assignments that are counted


@dataclass(frozen=True, kw_only=True)
class SpacesOptions(SizeOptions):
    """Options of `lasfast spaces`."""

    supernet: Annotated[
        str | None, typer.Argument(help="Show the decisions of this supernet.", metavar="[SUPERNET]")
    ] = None
    image_size: Annotated[int, typer.Option(help="Height and width that FLOPs are counted for.")] = 32
    num_classes: Annotated[int, typer.Option(help="Classes of the classifier.")] = 10


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "spaces", SpacesOptions)
    def spaces(options: SpacesOptions) -> None:
        """List the supernets that `--supernet` takes, or show the decisions of a supernet of choices.

        Nothing is trained or run.

        **Examples**

        lasfast spaces

        lasfast spaces proxyless

        lasfast spaces mobilenet-220m --image-size 224 --num-classes 1001 --squeeze-excite --activation swish
        """
        if options.image_size < 1 or options.num_classes < 1:
            raise ValueError(
                "--image-size and --num-classes must be 1 or more, "
                f"got {options.image_size} and {options.num_classes}"
            )
        console = make_console()
        if options.supernet is None:
            _list(console, options)
        else:
            check_choice("SUPERNET", options.supernet, tuple(CHOICE_FAMILIES))
            _show(console, options.supernet, options)


def _list(console: Console, options: SpacesOptions) -> None:
    title = f"layer assignments, up to {LAYERS} layers in each group, for any lasfast search but itnas"
    table = make_table(title, "supernet", "groups", "architectures", "MFLOPs")
    for name in FAMILIES:
        with torch.device("meta"):
            assigned = make_supernet(
                SupernetOptions(supernet=name), _images(options), (LAYERS,) * GROUPS[name], 0
            )
        flops = costs.functions(assigned, (options.image_size,) * 2)["flops"]
        shallow, deep = flops((1,) * GROUPS[name]), flops(assigned.space.deepest)
        table.add_row(name, str(GROUPS[name]), f"{assigned.space.count():,}", _range(shallow, deep))
    console.print(table)
    title = "choices, for any lasfast search but nir"
    table = make_table(title, "supernet", "decisions", "architectures", "MFLOPs")
    for name in CHOICE_FAMILIES:
        own = [option for option, families in OWN_OPTIONS.items() if name in families]
        supernet = _make(
            name, options, SizeOptions(**{one: getattr(options, one) for one in ("width", *own)})
        )
        table.add_row(
            name,
            str(len(supernet.space.options)),
            f"{supernet.space.count():.2g}",
            _range(*_extremes(supernet, options)),
        )
    console.print(table)


def _show(console: Console, name: str, options: SpacesOptions) -> None:
    supernet = _make(name, options, options)
    low, high = _extremes(supernet, options)
    console.print(
        f"{name}: {supernet.space.count():.3g} architectures, {_range(low, high)} MFLOPs (multiply-adds) "
        f"at {options.image_size}x{options.image_size}; decisions and their options:"
    )
    given = zip(supernet.space.given, supernet.space.names, strict=True)
    number = 0
    for (shared, names), alike in groupby((_reach(layer), names) for layer, names in given):
        count = len(list(alike))
        places = str(number + 1) if count == 1 else f"{number + 1} to {number + count}"
        console.print(f"{places:>8}  {' '.join(names)}{shared}")
        number += count
    known = costs.functions(supernet, (options.image_size,) * 2)
    quantized = costs.is_quantized(supernet.path(tuple(names[0] for names in supernet.space.options)))
    if quantized:
        low, high = (one / 2**30 for one in _extremes(supernet, options, "bitops"))
        console.print(f"{low:.2f} to {high:.2f} Gi bit operations (bitops) of what is quantized")
    for title, text in supernet.published.items():
        architecture = supernet.space.parse(text)
        figures = f"{known['flops'](architecture) / 1e6:.1f} MFLOPs"
        if quantized:
            figures += f", {known['bitops'](architecture) / 2**30:.2f} Gi bit operations"
        console.print(f"published as {title}, {figures}:\n  {text}")


def _reach(layer: object) -> str:
    if not isinstance(layer, VirtualLayer):
        return ""
    return "  (for the next decision)" if layer.layers == 1 else f"  (shared by the next {layer.layers})"


def _make(name: str, options: SpacesOptions, size: SizeOptions) -> ChoicesNet:
    """Return a supernet without weights, which costs do not look at."""
    with torch.device("meta"):
        return make_choice_supernet(FamilyOptions(supernet=name), _images(options), size, 0)


def _images(options: SpacesOptions) -> ImageKind:
    return ImageKind(options.num_classes, 3, (options.image_size, options.image_size))


def _extremes(supernet: ChoicesNet, options: SpacesOptions, name: str = "flops") -> tuple[float, float]:
    cost = costs.functions(supernet, (options.image_size,) * 2)[name]
    ordered = supernet.space.by_cost(cost)
    return tuple(cost(tuple(chosen[end] for chosen in ordered)) for end in (0, -1))  # type: ignore[return-value]


def _range(low: float, high: float) -> str:
    return f"{low / 1e6:.1f} to {high / 1e6:.1f}"
