"""`lasfast dataset`: train every assignment of some depths from scratch, for an architecture table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli import setup
from lasfast.cli.display import make_console
from lasfast.cli.from_scratch import show_rows, train_from_scratch
from lasfast.cli.options import SupernetOptions, TrainingCommandOptions, command, panel
from lasfast.cli.setup import TrainingSetup
from lasfast.measurements.journal import Journal
from lasfast.study.architecture_table import compare
from lasfast.study.files import JOURNAL, TABLE


@dataclass(frozen=True, kw_only=True)
class ArchitectureTableOptions(TrainingCommandOptions, SupernetOptions):
    """Options of `lasfast dataset`."""

    depths: Annotated[str, panel("Table", "A depth, or a range such as 4-6, both ends included.")] = "4"
    directory: Annotated[Path, panel("Table", "Where to write.", "--directory", "-o")] = Path("runs/dataset")
    resume: Annotated[
        bool, panel("Table", "Go on with the table in the directory, which more depths extend.", "--resume")
    ] = False
    compare: Annotated[
        Path | None, panel("Table", "A study whose one-shot accuracies are compared with the table.")
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "dataset", ArchitectureTableOptions)
    def build_table(options: ArchitectureTableOptions) -> None:
        """Train every assignment of a depth range from scratch, and write the table of their accuracies.

        The paper's table has depths 4 to 15: 454 networks. If this is stopped at any moment, --resume goes on
        from there.

        **Examples**

        lasfast dataset --depths 4

        lasfast dataset --depths 4-6 --data digits --compare runs/nir-digits --resume

        lasfast dataset --depths 4-15 --data cifar100 --preset cifar100 --max-layers 13
        """
        depths = _parse_depths(options.depths)
        setup.check_family(options)
        groups = setup.GROUPS[options.supernet]
        if options.max_layers is None:
            max_layers = (max(1, depths[-1] - groups + 1),) * groups  # every assignment of the depth
        else:
            max_layers = setup.parse_max_layers(options, depths[-1])
        given = TrainingSetup.of(options)
        supernet = setup.make_supernet(options, given.data, max_layers, options.seed).to(given.device)
        architectures = list(supernet.space.enumerate(depth=depths))
        given.console.print(
            f"training {len(architectures)} assignments of {type(supernet).__name__} from scratch, "
            f"{given.settings.standalone_epochs} epochs each, in {options.directory}"
        )
        given.console.print(f"{given.data!r}")
        _, rows = train_from_scratch(
            given, supernet, architectures, options.directory, keep_weights=False, resume=options.resume
        )
        results = make_console()
        show_rows(results, supernet.space, f"{len(rows)} networks trained from scratch", rows, {})
        if options.compare is not None:
            measured = [measurement for _, measurement in Journal.read(options.compare / JOURNAL)[1]]
            whole, by_depth = compare(rows, measured)
            for name, one in [("all", whole), *((f"depth {depth}", one) for depth, one in by_depth.items())]:
                results.print(
                    f"one-shot against stand-alone, {name}: {one.count} assignments, accuracy gap (Eq. 7) "
                    f"{100 * one.gap:.1f} points, Kendall's tau {one.tau:.2f}, Spearman's rho {one.rho:.2f}"
                )
        results.print(f"table: {options.directory / TABLE}")


def _parse_depths(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        depths = range(int(first), int(last or first) + 1)
    except ValueError:
        depths = range(0)
    if not depths or depths[0] < 1:
        raise ValueError(f"--depths must be a depth or a range, as 6 or 4-6, got {text!r}")
    return depths
