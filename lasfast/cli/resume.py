"""`lasfast resume RUN`: go on with a run by its own recorded command, also beyond its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lasfast.cli.config import COMMAND, CONFIG, read_options, words_of
from lasfast.cli.context import find_command
from lasfast.cli.display import make_console
from lasfast.cli.options import command, panel
from lasfast.core.files import atomic_write_json
from lasfast.measurements.journal import Journal
from lasfast.runtime import distributed
from lasfast.study.files import JOURNAL

FARTHER = {"depth": ("nir",), "generations": ("evolution",), "evaluations": ("evolution", "layernas")}
"""Options by which a search that has ended goes on, and the searches that do so to the same bytes."""


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Options of `lasfast resume`."""

    run: Annotated[Path, typer.Argument(help="A run's directory.", metavar="RUN")]
    depth: Annotated[
        int | None, panel("Search", "Go on to this depth, of a search by NIR that ended at a lesser one.")
    ] = None
    generations: Annotated[
        int | None, panel("Search", "Go on to so many generations, of a search by evolution.")
    ] = None
    evaluations: Annotated[
        int | None, panel("Search", "Go on to so many architectures, of a search by evolution or LayerNAS.")
    ] = None
    quiet: Annotated[bool, panel("Machine", "Print the result only.", "--quiet", "-q")] = False


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "resume", ResumeOptions)
    def resume(options: ResumeOptions) -> None:
        """Go on with a run that was stopped, whatever it was, by its own recorded command.

        That is a search with all its trainings, `lasfast train` or `lasfast dataset`. A search that has ended
        goes on with a greater --depth, or more --generations or --evaluations, in the same supernet, as if it
        had been so from the first.

        **Examples**

        lasfast resume runs/nir-photos

        lasfast resume runs/nir-photos --depth 15

        lasfast resume runs/evolution-photos --generations 40

        torchrun --nproc-per-node 2 -m lasfast resume runs/nir-photos
        """
        config = read_options(options.run)
        if COMMAND not in config:
            raise ValueError(
                f"{options.run / CONFIG} does not say which command started the run: an older lasfast did; "
                "give that command again, with --resume"
            )
        wanted = {name: getattr(options, name) for name in FARTHER if getattr(options, name) is not None}
        for name, value in wanted.items():
            _check_farther(name, value, config)
        again = config | wanted | {"directory": str(options.run)}
        if wanted and again.get("population", 0) is None:  # whose default depends on the evaluations
            header, _ = Journal.read(options.run / JOURNAL)
            again["population"] = header["searcher"]["population"]
        words = words_of(again) + ["--resume"] + ["--quiet"] * options.quiet
        make_console(options.quiet).print(f"lasfast {' '.join(words)}", soft_wrap=True)
        writes = bool(wanted) and distributed.world().main
        if writes:
            atomic_write_json(options.run / CONFIG, config | wanted)
        try:
            _run(words)
        except (ValueError, TypeError):
            if writes:  # nothing goes on by them
                atomic_write_json(options.run / CONFIG, config)
            raise


def _check_farther(name: str, value: int, config: Mapping[str, Any]) -> None:
    """Raise a ValueError where a run has no such option, or went as far."""
    if config[COMMAND][-1] not in FARTHER[name]:
        words = " ".join(config[COMMAND])
        raise ValueError(f"--{name} {value} is not for a run of lasfast {words}; leave it out")
    before = config[name]
    if before is not None and value <= before:
        raise ValueError(f"--{name} must be more than the run's, {before}, got {value}")


def _run(words: list[str]) -> None:
    """Run a command of this program."""
    found, rest = find_command(words)
    found.main(args=rest, prog_name="lasfast", standalone_mode=False)
