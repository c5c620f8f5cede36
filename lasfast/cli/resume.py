"""`lasfast resume RUN`: go on with a run by its own recorded command, also beyond its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lasfast.cli.config import COMMAND, CONFIG, read_options, words_of
from lasfast.cli.context import run_command
from lasfast.cli.display import make_console
from lasfast.cli.options import command, panel
from lasfast.core.files import atomic_write_json
from lasfast.measurements.journal import Journal, JournalError
from lasfast.runtime import distributed
from lasfast.study.files import JOURNAL

FARTHER = ("depth", "generations", "evaluations", "seconds")
"""Options by which a search that has ended goes on."""


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
        int | None,
        panel(
            "Search",
            "Go on to so many architectures, of a search that has --evaluations or --samples.",
        ),
    ] = None
    seconds: Annotated[
        float | None, panel("Search", "Go on for so many seconds in all, of a search that has --seconds.")
    ] = None
    quiet: Annotated[bool, panel("Machine", "Print the result only.", "--quiet", "-q")] = False


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "resume", ResumeOptions)
    def resume(options: ResumeOptions) -> None:
        """Go on with a run that was stopped, whatever it was, by its own recorded command.

        That is a search with all its trainings, `lasfast train` or `lasfast dataset`. A search that has ended
        goes on with a greater --depth (NIR), more --generations (evolution), more --evaluations (all others)
        or more --seconds (if it had some), in the same supernet, as if it had been so from the first.

        **Examples**

        lasfast resume runs/nir-photos

        lasfast resume runs/nir-photos --depth 15

        lasfast resume runs/evolution-photos --generations 40

        lasfast resume runs/predictor-photos --evaluations 500

        torchrun --nproc-per-node 2 -m lasfast resume runs/nir-photos
        """
        config = read_options(options.run)
        if COMMAND not in config:
            raise ValueError(
                f"{options.run / CONFIG} does not say which command started the run: an older lasfast did; "
                "give that command again, with --resume"
            )
        wanted = {name: getattr(options, name) for name in FARTHER if getattr(options, name) is not None}
        if wanted:
            header, _ = Journal.read(options.run / JOURNAL)
            for name, value in wanted.items():
                _check_farther(name, value, config, header)
            if config.get("population", 0) is None:  # whose default depends on the evaluations
                wanted["population"] = header["searcher"]["population"]
        again = config | wanted | {"directory": str(options.run)}
        words = words_of(again) + ["--resume"] + ["--quiet"] * options.quiet
        make_console(options.quiet).print(f"lasfast {' '.join(words)}", soft_wrap=True)
        writes = bool(wanted) and distributed.world().main
        if writes:
            atomic_write_json(options.run / CONFIG, config | wanted)
        try:
            run_command(words)
        except (ValueError, TypeError) as error:
            if writes:  # nothing goes on by them
                atomic_write_json(options.run / CONFIG, config)
            if "evaluations" in wanted and config[COMMAND][-1] == "auto" and isinstance(error, JournalError):
                raise ValueError(
                    f"--evaluations {options.evaluations}: with so many, auto would have searched otherwise "
                    f"from the first; start another run, or give fewer ({error})"
                ) from error
            raise


def _check_farther(name: str, value: float, config: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Raise a ValueError where a run does not end by such an option, or went as far."""
    if name not in _ends_by(config):
        words = " ".join(config[COMMAND])
        others = " or ".join(f"--{other}" for other in _ends_by(config))
        rest = f"give {others} instead" if others else "leave it out"
        raise ValueError(f"--{name} {value} is not for a run of lasfast {words}; {rest}")
    before = _reached(name, config, header["searcher"])
    if before is None:
        raise ValueError(f"--{name} {value} would add nothing: the run had no bound, and went to its own end")
    if value <= before:
        raise ValueError(f"--{name} must be more than the run's, {before}, got {value}")


def _ends_by(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options that say how far a search goes."""
    kind, *rest = config[COMMAND]
    if kind != "search" or rest == ["itnas"]:
        return ()
    seconds = ("seconds",) if config.get("seconds") is not None else ()
    if rest == ["nir"]:
        return ("depth", *(() if config["evaluations"] is None else ("evaluations",)), *seconds)
    if rest != ["evolution"]:
        return ("evaluations", *seconds)
    either = ("generations", "evaluations")
    return (*(tuple(name for name in either if config[name] is not None) or either), *seconds)


def _reached(name: str, config: Mapping[str, Any], searcher: Mapping[str, Any]) -> float | None:
    """Return how far a search was to go, which its default says where it has no option; None is no bound."""
    if config[name] is None and name == "evaluations":
        if searcher["name"] == "random":
            name = "samples"
        elif searcher["name"] == "evolution":
            return int(searcher["population"] * (searcher["generations"] + 1))
    found: float | None = searcher[name] if config.get(name) is None else config[name]
    return found
