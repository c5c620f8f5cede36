"""`lasfast info --prefix-tree`: how a batch of architectures would run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from lasfast.cli import setup
from lasfast.cli.options import FamilyOptions, SizeOptions, panel
from lasfast.engine import NotLowerableError
from lasfast.engine.lower import lower
from lasfast.engine.schedule import Call
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet


@dataclass(frozen=True, kw_only=True)
class PrefixTreeOptions(SizeOptions, FamilyOptions):
    """The supernet, and the size of the images."""

    image_size: Annotated[
        int, panel("Supernet", "Height and width of the images of the prefix tree, or of the --model.")
    ] = 32


def describe_prefix_tree(options: PrefixTreeOptions, texts: str) -> list[tuple[str, str]]:
    """Return (name, value) lines about the prefix tree of architectures, written as 3-4-5,2-5-5."""
    setup.check_any_family(options)
    size = options.image_size
    images = setup.ImageKind(10, 3, (size, size))
    parts = [text.strip() for text in texts.split(",")]
    supernet: Supernet
    if options.supernet in setup.CHOICE_FAMILIES:
        supernet = setup.make_choice_supernet(options, images, options, 0)
        architectures = [supernet.space.parse(text) for text in parts]
    else:
        architectures = [setup.parse_counts("--prefix-tree", text, options.supernet) for text in parts]
        most = tuple(max(counts) for counts in zip(*architectures, strict=True))
        supernet = setup.make_supernet(options, images, most, 0)
    return prefix_tree_lines(supernet, architectures, (3, size, size))


def prefix_tree_lines(
    supernet: Supernet, architectures: Sequence[Architecture], image_shape: Shape
) -> list[tuple[str, str]]:
    """Return (name, value) lines about a prefix tree; the last one names each op that torch runs."""
    tree = PrefixTree([supernet.path(architecture) for architecture in architectures])
    _, height, width = image_shape
    lines = [
        ("prefix tree", f"{len(architectures)} architectures of {type(supernet).__name__}, {height}x{width}"),
        ("layers", f"{sum(map(len, tree.paths))} in all, {len(tree.nodes)} to run"),
        ("sharing", f"{tree.sharing_ratio:.2f}x"),
    ]
    try:
        for name, calibration in (("calibration", True), ("prediction", False)):
            schedule = lower(tree, image_shape, calibration=calibration)
            values = f"{schedule.arena + schedule.shared:,} values an image"
            count = len(schedule.operations) - len(schedule.calls)
            lines.append((name, f"{count} native operations, {values}"))
        calls = dict.fromkeys(f"{call.layer.name} ({_title(call)})" for call in schedule.calls)
        lines.append(("run by PyTorch", ", ".join(calls) or "no layer"))
    except (NotLowerableError, ImportError) as error:
        lines.append(("run by PyTorch", f"every layer, because of {error}"))
    return lines


def _title(call: Call) -> str:
    name = type(call.op).__name__
    module = getattr(call.op, "module", "").removeprefix(f"{call.layer.name}.")
    return f"{name} {module}" if module else name
