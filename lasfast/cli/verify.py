"""`lasfast verify RUN`: replay a finished search, measure candidates again, and compare every bit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from lasfast.cli import setup
from lasfast.cli.config import COMMAND, CONFIG, read_options, words_of
from lasfast.cli.context import Replay, replayed, run_command
from lasfast.cli.display import make_console
from lasfast.cli.earlier import OpenedRun, open_run
from lasfast.cli.options import MachineOptions, command
from lasfast.measurements.journal import Entry, Journal, JournalError
from lasfast.report import Run
from lasfast.study.comparison import ITSELF, Baseline, Comparison, compare, verdict_of
from lasfast.study.files import CHECKPOINT, CLOCK, JOURNAL, RESULT
from lasfast.study.result import StudyResult
from lasfast.supernets import LayerAssignmentSupernet

ROUNDING = 0.01
"""Up to this share of the images may be right in one measurement and wrong in the other by rounding."""
ROUNDED = ("top1", "standard_error", "deviation", "lead", "lead_error")
"""The figures of a comparison that are sums over images."""
COMPARISONS = ("comparison", "from_scratch")
"""These entries of `result.json` are no part of what the search by its journal finds."""


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
        are loaded, and random candidates that were measured with these are measured again, and so is what the
        winner is compared with. On the machine and build of the search, every bit agrees. On another, sums
        are rounded otherwise, and a few images may differ. Nothing is measured again in a table, or where
        each candidate was trained from scratch.

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
        replay = _replay(options.run)
        if replay is None:
            text = "no command made the run, so the search by them is not replayed"
        else:
            _check_found(options.run, found, replay.result)
            text = f"the search by them is the same, and finds {replay.result.best.name}"
        make_console().print(f"{len(entries)} measurements read; {text}")
        exact = opened is not None and _measure_again(options, opened, entries)
        if "comparison" in found:
            text = _compare_again(options.run / RESULT, found["comparison"], replay, opened, exact)
            make_console().print(text, soft_wrap=True)
        elif replay is not None and replay.baselines:
            make_console().print(f"{RESULT} has no comparison to verify, for which the command asks")
        if "from_scratch" in found:
            text = "the comparison from scratch is not verified: its networks would have to be trained again"
            make_console().print(text, soft_wrap=True)


def _replay(run: Path) -> Replay | None:
    """Search by the measurements of a run, in a copy of it; None where no command made the run.

    Raises:
        JournalError: the searcher asks for other candidates.
    """
    if not (run / CONFIG).exists() or COMMAND not in (config := read_options(run)):
        return None
    with TemporaryDirectory(prefix="lasfast-verify-") as copy:
        for name in (CONFIG, JOURNAL, CHECKPOINT, CLOCK):
            if (run / name).exists():
                shutil.copy(run / name, copy)
        replays: list[Replay] = []
        token = replayed.set(replays)
        try:
            run_command([*words_of(config | {"directory": copy}), "--resume", "--quiet"])
        except JournalError as error:
            raise JournalError(str(error).replace(copy, str(run))) from error
        finally:
            replayed.reset(token)
    return replays[0]


def _check_found(run: Path, found: Mapping[str, Any], again: StudyResult) -> None:
    """Raise ValueError where a run has another result than the search by its journal; but for comparisons."""
    wanted = _as_json(again.to_json())
    for name in (*wanted, *found):
        if name not in COMPARISONS and (name not in found or found[name] != wanted.get(name)):
            raise ValueError(f"{run / RESULT} must be what the search by {JOURNAL} finds, got another {name}")


def _measure_again(options: VerifyOptions, opened: OpenedRun, entries: Sequence[Entry]) -> bool:
    """Measure candidates again, and return whether all agree in every bit; False where none is measured.

    Exit status 1 ends the command where they differ by more than rounding.
    """
    evaluator, trained, _, at = opened
    # A supernet of layer assignments is trained on in each step, so that earlier weights are gone.
    changed = isinstance(evaluator.supernet, LayerAssignmentSupernet) and trained.directory == options.run
    last = max(*(step for step, _ in entries), at or 0)
    known = [one for step, one in entries if step == last or not changed]
    if not known:
        make_console().print("none is measured again: the supernet was trained on after the last")
        return False
    sample = random.Random("verify").sample(known, min(options.candidates, len(known)))
    again = evaluator([one.architecture for one in sample])
    pairs = list(zip(sample, again, strict=True))
    agree = sum(one == other for one, other in pairs)
    make_console().print(f"{agree} of {len(sample)} that were measured again agree in every bit")
    if agree == len(sample):
        return True
    images = len(sample[0].right())
    most = max(int((one.right() != other.right()).sum()) for one, other in pairs)
    rounding = most <= ROUNDING * images
    make_console().print(
        f"the others differ in at most {most} of {images} images: "
        + ("that may be rounding, as on another machine" if rounding else "that is no rounding")
    )
    if not rounding:
        raise typer.Exit(1)
    return False


def _compare_again(
    path: Path, found: Mapping[str, Any], replay: Replay | None, opened: OpenedRun | None, exact: bool
) -> str:
    """Measure again what a winner was compared with, and say what came of it.

    Args:
        path: the file that has the comparison.
        found: the comparison.
        replay: the search that was done again.
        opened: the run with its weights; None where it has none.
        exact: whether measuring again gives the same bits here; else it may differ by rounding.

    Raises:
        ValueError: it is another comparison than is measured.
    """
    if replay is None:
        return "the comparison is not verified: no command made the run, which would say what to compare"
    if not replay.baselines:
        raise ValueError(f"{path} must have no comparison, for which the command does not ask")
    if opened is None:
        return "the comparison is not verified: its networks would have to be trained again"
    best, measured = replay.result.best.architecture, len(replay.result.candidates)
    comparison = compare(opened.evaluator, replay.searcher, best, measured, replay.baselines, replay.weights)
    again = _as_json(comparison.to_json())
    if found == again:
        others = sum(len(one.architectures) for one in comparison.baselines)
        return f"the comparison with {others} others agrees in every bit"
    if exact or not _is_rounding(found, again):
        other = [name for name in again if found.get(name) != again[name]] or ["figure"]
        raise ValueError(f"{path} must have the comparison that is measured again, got another {other[0]}")
    return "the comparison differs by what may be rounding, as on another machine"


def _is_rounding(found: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    """Return whether rounding may explain how two comparisons differ, and the figures fit together."""
    pairs = list(zip((found, *found["baselines"]), (again, *again["baselines"]), strict=False))
    if len(found["baselines"]) != len(again["baselines"]) or any(a.keys() != b.keys() for a, b in pairs):
        return False
    follow = {"baselines", "better", "level", "verdict"}  # from the figures
    read, other_read = Comparison.from_json(found), Comparison.from_json(again)
    return all(
        abs(one[name] - other[name]) <= 2 * ROUNDING if name in ROUNDED else one[name] == other[name]
        for one, other in pairs
        for name in other.keys() - follow
    ) and all(
        _fits(read, one, other) for one, other in zip(read.baselines, other_read.baselines, strict=True)
    )


def _fits(found: Comparison, baseline: Baseline, again: Baseline) -> bool:
    """Return whether the lead of a winner and the verdict follow from the other figures of a baseline."""
    verdict = verdict_of(baseline, found.measured, found.weights)
    if again.verdict == ITSELF:
        verdict = ITSELF
    return abs(baseline.lead - (found.top1 - baseline.top1)) < 1e-9 and baseline.verdict == verdict


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they are read from a file."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read
