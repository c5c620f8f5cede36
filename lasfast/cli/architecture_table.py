"""`lasfast dataset`: train every assignment of some depths from scratch, for an architecture table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli import setup
from lasfast.cli.config import write_config
from lasfast.cli.display import make_console
from lasfast.cli.from_scratch import show_rows, train_from_scratch
from lasfast.cli.options import EPOCHS, SupernetOptions, TrainingCommandOptions, command, panel
from lasfast.cli.setup import TrainingSetup
from lasfast.measurements.inheritance import inheritance
from lasfast.measurements.journal import Journal
from lasfast.report import inheritance_table, inheritance_text, plot_inheritance
from lasfast.runtime import distributed
from lasfast.study.architecture_table import compare
from lasfast.study.files import JOURNAL, TABLE
from lasfast.study.table_parts import shard_directory
from lasfast.supernets import LayerAssignmentSupernet

RELATION_PICTURE = "relation.png"


@dataclass(frozen=True, kw_only=True)
class ArchitectureTableOptions(TrainingCommandOptions, SupernetOptions):
    """Options of `lasfast dataset`."""

    depths: Annotated[str, panel("Table", "A depth, or a range such as 4-6, both ends included.")] = "4"
    standalone_epochs: Annotated[
        int | None, panel("Training from scratch", "Epochs of training from scratch.", *EPOCHS)
    ] = None
    directory: Annotated[Path, panel("Table", "Where to write.", "--directory", "-o")] = Path("runs/dataset")
    resume: Annotated[
        bool, panel("Table", "Go on with the table in the directory, which more depths extend.", "--resume")
    ] = False
    compare: Annotated[
        Path | None, panel("Table", "A study whose one-shot accuracies are compared with the table.")
    ] = None
    relation: Annotated[
        bool,
        panel(
            "Table",
            "Say whether the best assignments inherit from those of the depth before, and draw it.",
            "--relation",
        ),
    ] = False
    test: Annotated[
        bool,
        panel("Table", "Measure networks on the test split, rather than on the validation images.", "--test"),
    ] = False
    shard: Annotated[
        str | None,
        panel(
            "Table",
            "Train one part of the networks, such as 3/16 in the third of sixteen jobs; the same command "
            "without --shard then joins the parts.",
        ),
    ] = None
    data_parallel: Annotated[
        bool,
        panel(
            "Table",
            "Of several processes, let all train each network, rather than each its own networks.",
            "--data-parallel",
        ),
    ] = False


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

        lasfast dataset --depths 4-15 --data cifar100 --preset nir-cifar100 --max-layers 13 --test

        lasfast dataset --depths 3-5 --data imagefolder:photos --supernet mynet.py:MyNet

        lasfast dataset --depths 4-8 --data digits --relation

        lasfast dataset --depths 4-15 --data cifar100 --max-layers 13 --shard 3/16 --resume

        torchrun --nproc-per-node 2 -m lasfast dataset --depths 4-6
        """
        depths = _parse_depths(options.depths)
        shard = None if options.shard is None else _parse_shard(options.shard)
        for name, is_given in (("compare", options.compare is not None), ("relation", options.relation)):
            if shard and is_given:
                raise ValueError(
                    f"--{name} is of a whole table: leave it out where --shard trains a part of one"
                )
        if options.relation and len(depths) < 2:
            raise ValueError(f"--relation needs two depths or more, as --depths 4-6, got {options.depths}")
        setup.check_family(options)
        if not setup.is_own(options):
            setup.parse_max_layers(options, depths[-1])  # before the images are read
        given = TrainingSetup.of(options)
        if options.test and given.settings.validates:
            raise ValueError(
                "--test must be without --standalone-keep-best and --standalone-early-stopping, which would "
                "choose by the test split"
            )
        supernet = _supernet(options, given, depths).to(given.device)
        architectures, directory = list(supernet.space.enumerate(depth=depths)), options.directory
        if shard:
            number, shards = shard
            architectures = architectures[number - 1 :: shards]  # of each depth, nearly as many
            directory = shard_directory(directory, number, shards)
            if not architectures:
                raise ValueError(f"--shard {options.shard}: there are fewer networks than parts")
        given.console.print(
            f"training {len(architectures)} assignments of {type(supernet).__name__} from scratch, "
            f"{given.settings.standalone_epochs} epochs each, in {directory}, on "
            f"{setup.describe_machine(given.device)}"
        )
        given.console.print(given.data.summary("train", "validation"))
        if distributed.world().main and not shard and (options.resume or not (directory / JOURNAL).exists()):
            write_config(directory, options, ("dataset",), anew=True)  # more depths may be asked for
        _, rows = train_from_scratch(
            given,
            supernet,
            architectures,
            directory,
            keep_weights=False,
            resume=options.resume,
            data_parallel=options.data_parallel,
            test=options.test,
        )
        if not distributed.world().main:
            return
        results = make_console()
        where = ", on the test split" if options.test else ""
        show_rows(results, supernet.space, f"{len(rows)} networks trained from scratch{where}", rows, {})
        if options.compare is not None:
            measured = [measurement for _, measurement in Journal.read(options.compare / JOURNAL)[1]]
            whole, by_depth = compare(rows, measured)
            for name, one in [("all", whole), *((f"depth {depth}", one) for depth, one in by_depth.items())]:
                results.print(
                    f"one-shot against stand-alone, {name}: {one.count} assignments, accuracy gap (Eq. 7) "
                    f"{100 * one.gap:.1f} points, Kendall's tau {one.tau:.2f}, Spearman's rho {one.rho:.2f}"
                )
        if options.relation:
            accuracies = {row.architecture: row.top1 for row in rows}
            found = inheritance(accuracies)
            results.print(inheritance_table("inheritance relation", found))
            results.print(inheritance_text(found))
            picture = plot_inheritance(accuracies, directory / RELATION_PICTURE)
            results.print(f"picture: {picture}")
        results.print(f"table: {directory / TABLE}")


def _supernet(
    options: ArchitectureTableOptions, given: TrainingSetup, depths: range
) -> LayerAssignmentSupernet:
    """Return the supernet that has the assignments of these depths, all of them unless options bound it."""
    if not setup.is_own(options):
        groups = setup.GROUPS[options.supernet]
        most = (max(1, depths[-1] - groups + 1),) * groups
        if options.max_layers is not None:
            most = setup.parse_max_layers(options, depths[-1])
        return setup.make_supernet(options, given.data, most, options.seed)
    supernet = setup.make_own_supernet(options, given.data, None, options.seed)
    if not isinstance(supernet, LayerAssignmentSupernet):
        raise ValueError(
            f"--supernet must be one of layer assignments, whose depths a table has, got {options.supernet}, "
            f"which has {supernet.space}; lasfast train takes one architecture of it"
        )
    return supernet


def _parse_shard(text: str) -> tuple[int, int]:
    """Return the number of a part, from 1, and how many parts there are."""
    number, _, shards = text.partition("/")
    if not (number.isdecimal() and shards.isdecimal() and 1 <= int(number) <= int(shards)):
        raise ValueError(f"--shard must be a part and how many there are, as 3/16, got {text!r}")
    return int(number), int(shards)


def _parse_depths(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        depths = range(int(first), int(last or first) + 1)
    except ValueError:
        depths = range(0)
    if not depths or depths[0] < 1:
        raise ValueError(f"--depths must be a depth or a range, as 6 or 4-6, got {text!r}")
    return depths
