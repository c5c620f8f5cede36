"""`lasfast latency`: time a supernet's layers on this machine, and check how well their sums predict."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lasfast.cli import setup
from lasfast.cli.display import format_seconds, make_console
from lasfast.cli.options import (
    MachineOptions,
    SizeOptions,
    SupernetOptions,
    command,
    panel,
    precision_option,
    refuse,
)
from lasfast.costs import LatencyTable
from lasfast.evaluation import latency
from lasfast.report.tables import make_table
from lasfast.supernets import Supernet

app = typer.Typer(rich_markup_mode="markdown")

LINE_SECONDS = 5.0  # between lines about long work


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(MachineOptions, SizeOptions, SupernetOptions):
    """Options of both commands: which table, of which supernet."""

    table: Annotated[Path, panel("Table", "The table's file.")] = Path("latency.json")
    depth: Annotated[
        int, panel("Supernet", "Depth that the default of --max-layers is enough for, as in a search.")
    ] = 9
    image_size: Annotated[
        str, panel("Supernet", "Height and width of the images: 64 for both, or 64x48.")
    ] = "32"
    channels: Annotated[int, panel("Supernet", "Channels of the images.")] = 3
    classes: Annotated[int, panel("Supernet", "Classes of the classifier.")] = 10
    seconds: Annotated[float, panel("Timing", "How long each timing lasts; the best run counts.")] = 0.2


@dataclass(frozen=True, kw_only=True)
class BuildOptions(LatencyOptions):
    """Options of `lasfast latency build`."""

    name: Annotated[str, panel("Table", "Name of the machine, as in latency<=12ms@NAME.")] = "cpu"
    backend: Annotated[str, panel("Timing", "What runs the layers: native, or torch (channels_last).")] = (
        "native"
    )
    precision: Annotated[str, precision_option()] = "fp32"
    batch: Annotated[int, panel("Timing", "Images at a time.")] = 1


@dataclass(frozen=True, kw_only=True)
class CheckOptions(LatencyOptions):
    """Options of `lasfast latency check`."""

    architectures: Annotated[int, panel("Check", "Random networks to time.")] = 30
    fitted: Annotated[
        int, panel("Check", "Networks that overhead + scale * sum is fitted to; the others test it.")
    ] = 10
    rounds: Annotated[int, panel("Check", "How often each network is timed; its best time counts.")] = 3
    seed: Annotated[int, panel("Check", "Seed of the networks.")] = 0
    keep_fit: Annotated[
        bool,
        panel("Check", "Write the fit to the table, which corrects latencies from then on.", "--keep-fit"),
    ] = False


@command(app, "build", BuildOptions)
def build(options: BuildOptions) -> None:
    """Time each distinct layer, and write a table for constraints such as latency<=12ms@cpu.

    If this is stopped at any moment, the same command goes on: layers in the table are not timed again.

    **Examples**

    lasfast latency build --supernet residual --table latency.json

    lasfast latency build --supernet proxyless --table latency.json

    lasfast latency build --supernet residual --image-size 64x48 --backend torch --name torch --table t.json

    lasfast search evolution --data cifar10 --latency-table latency.json --constraint "latency<=2ms@cpu"
    """
    console = make_console(options.quiet)
    supernet = _supernet(options)

    def announce(layers: int, timings: int) -> None:
        seconds = format_seconds(timings * options.seconds)
        console.print(f"{layers} layers to time, in {seconds} or more; if this is stopped, it can go on")

    table = latency.build(
        supernet,
        setup.parse_image_size(options.image_size),
        options.table,
        name=options.name,
        backend=options.backend,
        precision=options.precision,
        batch=options.batch,
        timer=latency.least_seconds(options.seconds),
        announce=announce,
        progress=_Lines(console),
    )
    make_console().print(
        f"{options.table}: {len(table.seconds)} layers, for latency@{table.name}; "
        "`lasfast latency check` says how well they predict networks"
    )


@command(app, "check", CheckOptions)
def check(options: CheckOptions) -> None:
    """Time whole random networks, and compare them with the sums of their layers.

    The supernet's options are those of the build; the table says how networks are run.

    **Examples**

    lasfast latency check --supernet residual --table latency.json

    lasfast latency check --supernet residual --table latency.json --architectures 50 --keep-fit
    """
    console = make_console(options.quiet)
    table = LatencyTable.load(options.table)
    supernet = _supernet(options)
    result = latency.check(
        supernet,
        setup.parse_image_size(options.image_size),
        table,
        architectures=options.architectures,
        fitted=options.fitted,
        rounds=options.rounds,
        seed=options.seed,
        timer=latency.least_seconds(options.seconds),
        progress=_Lines(console),
    )
    least, most = 1e3 * min(result.measured), 1e3 * max(result.measured)
    count, others = len(result.measured), len(result.measured) - result.fitted
    title = f"latency@{table.name}: {count} networks of {least:.2f} to {most:.2f} ms"
    rows = make_table(title, "predicted by", "networks", "mean error", "Kendall's tau", "Spearman's rho")
    fit = f"{1e3 * result.overhead:.3f} ms + {result.scale:.3f} * sum"
    for what, networks, one in (
        ("sum of layers", count, result.of_sum()),
        ("sum of layers", others, result.of_sum_held_out()),
        (fit, others, result.of_fit()),
    ):
        rows.add_row(what, str(networks), f"{100 * one.error:.1f} %", f"{one.tau:.2f}", f"{one.rho:.2f}")
    results = make_console()
    results.print(rows)
    if options.keep_fit:
        if result.scale <= 0:
            raise ValueError(f"--keep-fit: the fit has a scale of {result.scale:.3f}; the table says nothing")
        table.overhead, table.scale = result.overhead, result.scale
        table.save()
        results.print(f"the fit is written to {options.table}")


def _supernet(options: LatencyOptions) -> Supernet:
    device = setup.make_device(options)
    if options.seconds < 0:
        raise ValueError(f"--seconds must not be negative, got {options.seconds}")
    if options.supernet in setup.CHOICE_FAMILIES:
        refuse(options, ["depth"], "is for supernets of layer assignments")
    images = setup.ImageKind(options.classes, options.channels, setup.parse_image_size(options.image_size))
    supernet = setup.make_any_supernet(options, images, depth=options.depth, size=options, seed=0)
    return supernet.to(device)


class _Lines:
    """Prints what was timed, a line every few seconds and the last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = time.monotonic()

    def __call__(self, done: int, total: int, text: str) -> None:
        if done == total or time.monotonic() - self._printed > LINE_SECONDS:
            self._console.print(f"{done}/{total}  {text}")
            self._printed = time.monotonic()
