"""`lasfast search`: train a supernet, or take a table of trained networks, find the best, report it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

import lasfast
from lasfast import costs
from lasfast.cli import finish, search_choices, setup
from lasfast.cli.config import write_config
from lasfast.cli.display import Meter, StudyDisplay, make_console
from lasfast.cli.options import SearchOptions, command, panel
from lasfast.cli.tabular import TableOptions, run_table_search
from lasfast.constraints import Constraint
from lasfast.searchers import NIR, Random, Searcher
from lasfast.study import Study

app = typer.Typer(help="Search for the best architecture.", no_args_is_help=True, rich_markup_mode="markdown")


@dataclass(frozen=True, kw_only=True)
class NIROptions(SearchOptions):
    """What NIR takes besides."""

    beam: Annotated[int, panel("Search", "Assignments of each depth that are kept as parents.")] = 1


@dataclass(frozen=True, kw_only=True)
class RandomOptions(SearchOptions, TableOptions):
    """What random search takes besides."""

    samples: Annotated[int, panel("Search", "How many architectures to try.")] = 20


@command(app, "nir", NIROptions)
def nir(options: NIROptions) -> None:
    """Grow the best assignment one layer at a time (Meng et al., AAAI 2020).

    Each step trains the deepest sub-network and the few assignments one layer deeper than the last winner,
    recalibrates their BatchNorm statistics, measures them and keeps the best.

    **Examples**

    lasfast search nir --depth 12 --retrain

    lasfast search nir --data cifar10 --download --preset cifar100 --depth 15 --precision bf16

    lasfast search nir --data imagefolder:photos --supernet mobilenet-v1 --depth 12 --resume
    """

    def make(space: Any, constraint: Constraint | None) -> Searcher:
        return NIR(space, depth=options.depth, beam=options.beam, constraint=constraint)

    run_search("nir", options, make, "every")


@command(app, "random", RandomOptions)
def random(options: RandomOptions) -> None:
    """Try random assignments of one depth, a baseline; or random architectures of a table.

    The supernet is trained on one of them, drawn uniformly, per batch (beside the deepest), then all are
    measured.

    **Examples**

    lasfast search random --depth 9 --samples 20

    lasfast search random --data cifar10 --depth 12 --samples 50 --epochs-per-step 60

    lasfast search random --table nasbench_macro.npz --constraint "flops<=42M" --samples 400
    """
    depth = options.depth if options.table is None else None

    def make(space: Any, constraint: Constraint | None) -> Searcher:
        return Random(space, samples=options.samples, depth=depth, constraint=constraint, seed=options.seed)

    if options.table is not None:
        run_table_search("random", options, options, make)
        return
    run_search("random", options, make, "uniform")


search_choices.register(app)


def run_search(name: str, options: SearchOptions, make_searcher: Any, paths: str) -> None:
    """Set everything up, run the study, and show and write what it found."""
    console = make_console(options.quiet)
    device = setup.make_device(options)
    settings = setup.make_settings(options)
    max_layers = setup.parse_max_layers(options, options.depth)
    data = setup.load_data(options, options.seed)
    supernet = setup.make_supernet(options, data, max_layers, options.seed).to(device)
    constraint = None
    if options.constraint is not None:
        tables = [costs.LatencyTable.load(options.latency_table)] if options.latency_table else []
        constraint = Constraint(options.constraint, costs.functions(supernet, data.image_size, tables))
    searcher = make_searcher(supernet.space, constraint)
    evaluator = setup.make_evaluator(options, supernet, data, options.precision)
    images = setup.training_images(data, device)
    trainer = lasfast.train.SupernetTrainer(supernet, images, settings, paths=paths)
    directory = (
        options.directory or Path("runs") / f"{name}-{options.data.rpartition('/')[2].replace(':', '-')}"
    )
    with Meter(console) as meter:
        study = Study(
            searcher,
            evaluator,
            trainer=trainer,
            directory=directory,
            callbacks=[StudyDisplay(console, meter)],
        )
        _introduce(console, name, options, data, supernet, directory, device)
        write_config(directory, options, search=name, max_layers=supernet.space.format(max_layers))
        result = study.run(resume=options.resume)
    finish.finish(console, study, result, data, images, settings, retrain=options.retrain)


def _introduce(
    console: Console,
    name: str,
    options: SearchOptions,
    data: lasfast.data.Dataset,
    supernet: lasfast.supernets.LayerAssignmentSupernet,
    directory: Path,
    device: torch.device,
) -> None:
    console.print(f"[bold]{name}[/bold] search to depth {options.depth} in {directory}")
    console.print(f"{data!r}")
    weights = sum(parameter.numel() for parameter in supernet.parameters())
    console.print(
        f"{type(supernet).__name__}, at most {supernet.space.format(supernet.space.deepest)} layers, "
        f"{weights / 1e6:.2f} M weights; {options.precision} on {device.type} "
        f"({torch.get_num_threads()} threads)"
    )
