"""`lasfast verify RUN`: replay a finished search, measure candidates again, and compare every bit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from lasfast.cli import setup
from lasfast.cli.config import COMMAND, CONFIG, read_options, words_of
from lasfast.cli.context import replayed, run_command
from lasfast.cli.display import make_console
from lasfast.cli.earlier import open_run
from lasfast.cli.options import MachineOptions, command
from lasfast.measurements.journal import Journal, JournalError
from lasfast.report import Run
from lasfast.study.files import CHECKPOINT, CLOCK, JOURNAL, RESULT
from lasfast.study.result import StudyResult
from lasfast.supernets import LayerAssignmentSupernet

ROUNDING = 0.01
"""Up to this share of the images may be right in one measurement and wrong in the other by rounding."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(MachineOptions):
    """Options of `lasfast verify`."""

    run: Annotated[Path, typer.Argument(help="Directory of the search.", metavar="RUN")]
    candidates: Annotated[int, typer.Option(help="How many candidates are measured again, at most.")] = 20


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "verify", VerifyOptions)
    def verify(options: VerifyOptions) -> None:
        """Replay a search, measure candidates again, and compare every bit; exit status 1 if any is wrong.

        The journal is read, of which each line has a checksum. The command of the run searches by its
        measurements, and has to ask for the same candidates and to find the same best. The weights of the end
        are loaded, and random candidates that were measured with these are measured again. On the machine and
        build of the search, every bit agrees. On another, sums are rounded otherwise, and a few images may
        differ. Nothing is measured again in a table, or where each candidate was trained from scratch.

        **Examples**

        lasfast verify runs/evolution-cifar10

        lasfast verify runs/nir-digits --candidates 100
        """
        console = make_console(options.quiet)
        if options.candidates < 1:
            raise ValueError(f"--candidates must be 1 or more, got {options.candidates}")
        if not Run.load(options.run).finished:
            raise ValueError(f"{options.run} has not finished: --resume it first")
        header, entries = Journal.read(options.run / JOURNAL)
        found = json.loads((options.run / RESULT).read_text(encoding="utf-8"))
        if (measured := sum(map(len, found.get("steps", [])))) > len(entries):
            raise JournalError(
                f"{options.run / JOURNAL} must hold the {measured} measurements of {RESULT}, "
                f"got {len(entries)}: the others are lost"
            )
        inherited = header["supernet"] is not None and "standalone" not in header["evaluator"]
        # Weights are read first: a replay without them would train the supernet again.
        opened = open_run(options.run, setup.make_device(options), console) if inherited else None
        make_console().print(f"{len(entries)} measurements read; {_replay(options.run, found)}")
        if opened is None:
            return
        evaluator, trained, _, at = opened
        # A supernet of layer assignments is trained on in each step, so that earlier weights are gone.
        changed = isinstance(evaluator.supernet, LayerAssignmentSupernet) and trained.directory == options.run
        last = max(*(step for step, _ in entries), at or 0)
        known = [one for step, one in entries if step == last or not changed]
        if not known:
            make_console().print("none is measured again: the supernet was trained on after the last")
            return
        sample = random.Random("verify").sample(known, min(options.candidates, len(known)))
        again = evaluator([one.architecture for one in sample])
        pairs = list(zip(sample, again, strict=True))
        agree = sum(one == other for one, other in pairs)
        make_console().print(f"{agree} of {len(sample)} that were measured again agree in every bit")
        if agree < len(sample):
            images = sample[0].images
            most = max(int((one.right() != other.right()).sum()) for one, other in pairs)
            rounding = most <= ROUNDING * images
            make_console().print(
                f"the others differ in at most {most} of {images} images: "
                + ("that may be rounding, as on another machine" if rounding else "that is no rounding")
            )
            raise typer.Exit(0 if rounding else 1)


def _replay(run: Path, found: Mapping[str, Any]) -> str:
    """Search by the measurements of a run, in a copy of it, and say what came of it.

    Args:
        run: the directory of the run.
        found: the result that it has.

    Raises:
        JournalError: the searcher asks for other candidates.
        ValueError: it finds another result than the run has.
    """
    if not (run / CONFIG).exists() or COMMAND not in (config := read_options(run)):
        return "no command made the run, so the search by them is not replayed"
    with TemporaryDirectory(prefix="lasfast-verify-") as copy:
        for name in (CONFIG, JOURNAL, CHECKPOINT, CLOCK):
            if (run / name).exists():
                shutil.copy(run / name, copy)
        results: list[StudyResult] = []
        token = replayed.set(results)
        try:
            run_command([*words_of(config | {"directory": copy}), "--resume", "--quiet"])
        except JournalError as error:
            raise JournalError(str(error).replace(copy, str(run))) from error
        finally:
            replayed.reset(token)
    again = json.loads(json.dumps(results[0].to_json()))
    if other := [name for name in again if name not in found or again[name] != found[name]]:
        raise ValueError(f"{run / RESULT} must be what the search by {JOURNAL} finds, got another {other[0]}")
    return f"the search by them is the same, and finds {results[0].best.name}"
