"""How a batch of assignments would run: what `lasfast info --plan` says."""

from __future__ import annotations

from lasfast.cli.options import SupernetOptions
from lasfast.cli.setup import FAMILIES, check_family, parse_counts
from lasfast.engine import NotLowerableError, Plan
from lasfast.engine.lowering import lower


def describe_plan(options: SupernetOptions, assignments: str, image_size: int) -> list[tuple[str, str]]:
    """Return (name, value) lines about the plan of assignments, written as 3-4-5,2-5-5."""
    check_family(options)
    architectures = [
        parse_counts("--plan", text.strip(), options.supernet) for text in assignments.split(",")
    ]
    most = tuple(max(counts) for counts in zip(*architectures, strict=True))
    sized = {"image_size": image_size} if options.supernet == "plain" else {"stem": options.stem or "cifar"}
    supernet = FAMILIES[options.supernet](most, 10, 3, **sized)
    plan = Plan([supernet.path(architecture) for architecture in architectures])
    shape = (3, image_size, image_size)
    lines = [
        ("plan", f"{len(architectures)} assignments of {type(supernet).__name__}, {image_size}x{image_size}"),
        ("layers", f"{sum(map(len, plan.paths))} in all, {len(plan.nodes)} to run"),
        ("sharing", f"{plan.sharing_ratio:.2f}x"),
    ]
    try:
        for name, calibration in (("calibration", True), ("prediction", False)):
            schedule = lower(plan, shape, calibration=calibration)
            values = f"{schedule.arena:,} values an image"
            lines.append((name, f"{len(schedule.operations)} native operations, {values}"))
        lines.append(("run by PyTorch", "no layer"))
    except NotLowerableError as error:
        lines.append(("run by PyTorch", f"every layer, because of {error}"))
    return lines
