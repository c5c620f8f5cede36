"""How a batch of assignments would run: what `lasfast info --plan` says."""

from __future__ import annotations

from collections.abc import Sequence

from lasfast.cli.options import SupernetOptions
from lasfast.cli.setup import FAMILIES, check_family, parse_counts
from lasfast.engine import NotLowerableError, Plan
from lasfast.engine.lowering import lower
from lasfast.engine.schedule import Call
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.supernets.layers import Shape


def describe_plan(options: SupernetOptions, assignments: str, image_size: int) -> list[tuple[str, str]]:
    """Return (name, value) lines about the plan of assignments, written as 3-4-5,2-5-5."""
    check_family(options)
    architectures = [
        parse_counts("--plan", text.strip(), options.supernet) for text in assignments.split(",")
    ]
    most = tuple(max(counts) for counts in zip(*architectures, strict=True))
    sized = {"image_size": image_size} if options.supernet == "plain" else {"stem": options.stem or "cifar"}
    supernet = FAMILIES[options.supernet](most, 10, 3, **sized)
    return plan_lines(supernet, architectures, (3, image_size, image_size))


def plan_lines(
    supernet: Supernet, architectures: Sequence[Architecture], image_shape: Shape
) -> list[tuple[str, str]]:
    """Return (name, value) lines about the plan of architectures; the last names each op that torch runs."""
    plan = Plan([supernet.path(architecture) for architecture in architectures])
    _, height, width = image_shape
    lines = [
        ("plan", f"{len(architectures)} architectures of {type(supernet).__name__}, {height}x{width}"),
        ("layers", f"{sum(map(len, plan.paths))} in all, {len(plan.nodes)} to run"),
        ("sharing", f"{plan.sharing_ratio:.2f}x"),
    ]
    try:
        for name, calibration in (("calibration", True), ("prediction", False)):
            schedule = lower(plan, image_shape, calibration=calibration)
            values = f"{schedule.arena + schedule.shared:,} values an image"
            count = len(schedule.operations) - len(schedule.calls)
            lines.append((name, f"{count} native operations, {values}"))
        calls = dict.fromkeys(f"{call.layer.name} ({_title(call)})" for call in schedule.calls)
        lines.append(("run by PyTorch", ", ".join(calls) or "no layer"))
    except NotLowerableError as error:
        lines.append(("run by PyTorch", f"every layer, because of {error}"))
    return lines


def _title(call: Call) -> str:
    name = type(call.op).__name__
    module = getattr(call.op, "module", "").removeprefix(f"{call.layer.name}.")
    return f"{name} {module}" if module else name
