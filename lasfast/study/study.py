"""The study: the loop of a search, and its files.

A step of the loop asks the searcher for candidates, trains the supernet for them, measures them, writes the
measurements to the journal, and tells them to the searcher. Resuming runs the same loop from the beginning:
measurements come from the journal, and training that was done is skipped. Since training, measuring and
searching are functions of their seeds and position, a study that is killed at any moment and resumed ends
with the same bytes as one that never was. Of one that may take so many seconds, the clock says after how
many measurements it ends, and nothing else.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from lasfast.constraints import UnknownCostError, known_cost
from lasfast.core.checks import as_int, as_number
from lasfast.core.files import atomic_write_json, atomic_write_text, naming
from lasfast.measurements.evaluation import Evaluation
from lasfast.measurements.journal import Entry, Journal, JournalError
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.schema import SECONDS
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.runtime import distributed
from lasfast.searchers import Searcher
from lasfast.spaces import Architecture
from lasfast.study.certainty import certainty_of
from lasfast.study.checkpoints import CheckpointClock, train_with_checkpoints
from lasfast.study.comparison import FAVORED, INHERITED, compare
from lasfast.study.files import CHECKPOINT, CLOCK, JOURNAL, LOG, RESULT, refuse_started
from lasfast.study.result import Measured, StudyResult, choose_best
from lasfast.study.stopwatch import Stopwatch
from lasfast.train import PathTrainer, Progress, checkpoint


class Callback:
    """Watches a study, which calls these methods between its work; override those that are wanted."""

    def on_start(self, study: Study) -> None:
        """The study calls this when it begins or resumes, before it trains."""

    def on_progress(self, progress: Progress) -> None:
        """The study calls this after each batch of training."""

    def on_step(self, step: int, measurements: Sequence[Measurement]) -> None:
        """The study calls this after each step (from 1), even one that was resumed from the journal."""

    def on_finish(self, result: StudyResult) -> None:
        """The study calls this when the search has ended and everything is written."""

    def on_stop(self) -> None:
        """The study calls this, after `on_start`, where it is stopped by Ctrl-C or an error."""


class _OfFunction(Callback):
    """The callback that a plain function of a step and its measurements is."""

    def __init__(self, function: Callable[[int, Sequence[Measurement]], None]) -> None:
        self._function = function

    def on_step(self, step: int, measurements: Sequence[Measurement]) -> None:
        """Call the function."""
        self._function(step, measurements)


def _as_callback(given: object) -> Callback:
    """Return a callback, or that of a function; TypeError where it is neither."""
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) or not callable(given):
        raise TypeError(
            f"callbacks must be Callback objects, or functions of a step and its measurements, got {given!r}"
        )
    return _OfFunction(given)


class Study:
    """Runs a search: `Study(searcher, evaluator, trainer=trainer, directory="runs/nir").run()`.

    Args:
        searcher: proposes architectures and learns from their values; it has observed nothing yet.
        evaluator: measures, such as an `Evaluator`, a `StandaloneEvaluator` or a `TabularEvaluator`.
        trainer: trains the evaluator's supernet, in each step or before the first; None leaves it as it is.
        directory: where the study's files go (`lasfast.study.files`); None writes none.
        callbacks: watch the study: `Callback` objects, such as `lasfast.study.TensorBoard`, or functions,
            which are called after each step with its number (from 1) and its measurements.
        checkpoint_seconds: how often to checkpoint during training; it is also done after each step.
        baselines: how many random architectures of the winner's cost are measured at the end, beside the
            winner, the whole network and one that is scaled alike everywhere to this cost
            (`lasfast.study.comparison`); 0 compares the winner with nothing. The evaluator measures all with
            the weights at the end, which is fair where these were not trained for some architectures alone.
            If the trainer trains for each step's candidates, the comparison says so.
        evaluations: how many architectures the search measures at most, whatever its searcher would; None
            bounds nothing.
        seconds: how long the search may take; None bounds nothing. In a supernet, these are seconds of the
            wall clock, in all runs of the study: training counts, what comes before and after the search does
            not. When they are spent, a batch of training or the candidates that are being measured are
            finished, which are as many as seemed to fit, and the search ends with the best so far. In a
            table, they are the training times of what is measured, and the search ends with the first
            architecture that does not fit.

    Within `lasfast.distributed.start`, all processes make and run the same study: they train together, and
    share out what is to be measured. Rank 0 alone calls callbacks, and reads and writes files.

    Raises:
        TypeError, ValueError: the arguments do not fit together.
    """

    def __init__(
        self,
        searcher: Searcher,
        evaluator: Evaluation,
        trainer: PathTrainer | None = None,
        directory: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback | Callable[[int, Sequence[Measurement]], None]] = (),
        checkpoint_seconds: float = 60,
        baselines: int = 0,
        *,
        evaluations: int | None = None,
        seconds: float | None = None,
    ) -> None:
        if trainer is not None and trainer.supernet is not evaluator.supernet:
            raise ValueError("trainer and evaluator must have the same supernet, got different ones")
        for architecture in () if searcher.after_training else searcher.ask():
            if architecture not in evaluator.space:
                owner = "table" if evaluator.supernet is None else "supernet"
                raise ValueError(
                    f"searcher asks for {architecture}, which is not in the {owner}'s space, "
                    f"{evaluator.space}"
                )
        self.searcher = searcher
        self.evaluator = evaluator
        self.trainer = trainer
        self.directory = None if directory is None else Path(directory)
        self._world = distributed.world()
        watching = tuple(map(_as_callback, callbacks))
        self.callbacks = watching if self._world.main else ()
        self._clock = CheckpointClock(checkpoint_seconds)
        self.baselines = as_int("baselines", baselines, minimum=0)
        self.evaluations = None if evaluations is None else as_int("evaluations", evaluations, minimum=1)
        if self.evaluations is not None and (searcher.most or math.inf) <= self.evaluations:
            self.evaluations = None  # the searcher ends by itself
        self.seconds = None if seconds is None else as_number("seconds", seconds, above=0)
        of_table = isinstance(evaluator, TabularEvaluator)
        if seconds is not None and of_table and getattr(evaluator, "training_cost", None) != SECONDS:
            raise ValueError(
                f"seconds must be None for a table without training times (--time-column), got {seconds}"
            )
        if seconds is not None and searcher.after_training:
            raise ValueError(
                f"seconds must be None for a searcher that asks only once training has ended, got {seconds}"
            )
        self._stopwatch = Stopwatch(None if of_table else self.seconds)
        self._pace: float | None = None  # seconds for each candidate, of those that were measured last
        self.description: dict[str, Any] = {}
        self._journal: Journal | None = None
        self._log: Callable[..., None] = _no_log
        self._written = 0  # measurements, in this run and those before
        self._saved: tuple[object, int] | None = None

    def run(self, resume: bool = False) -> StudyResult:
        """Search to the end.

        With `resume=True`, a study in `directory` goes on where it stopped, or is read again if it had ended,
        the weights included; where there is none yet, it starts.

        A study that has ended goes on farther, where its searcher has a greater `Searcher.extent` (a depth or
        a number of generations, evaluations or samples), or the study more `evaluations` or `seconds`, and
        all else is the same: as if it had been so at first.

        Raises:
            FileExistsError: there is a study in `directory`, and `resume` is False.
            JournalError, CheckpointError: a file is damaged, the study has other settings, or another process
                is running it; the text says which, and what to do.
            NonFiniteLossError: training diverged; the last checkpoint stays.
            ValueError: nothing was measured, or nothing that may be the best; the journal has what was.
            TimeoutError: all `seconds` were spent before anything was measured; the study resumes with more.
            KeyboardInterrupt: Ctrl-C was pressed. The batch at hand was finished, and the study can be
                resumed.
        """
        if resume and self.directory is None:
            raise ValueError("resume is True, but the study has no directory to resume from")
        if resume:
            self.searcher.begin()
        elif self.searcher.results:
            raise ValueError("searcher was told results before; a study needs a new one")
        with ExitStack() as cleanup:
            journaled = self._begin(resume, cleanup)
            for callback in self.callbacks:
                callback.on_start(self)
            try:
                steps = self._search(journaled)
                self._stopwatch.stop()
                result = self._result(steps)
                self.write(result)
                if self.baselines:
                    result = self._compared(result)
                    self.write(result)
            except BaseException:
                for callback in self.callbacks:
                    callback.on_stop()
                raise
            self._log("finish", best=result.best.text, top1=result.best.top1)
        for callback in self.callbacks:
            callback.on_finish(result)
        return result

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return the known costs of an architecture by name: the evaluator's, and those of the constraint."""
        found = dict(self.evaluator.costs(architecture))
        for name, cost in self.searcher.named_costs.items():
            if name not in found:
                with suppress(UnknownCostError):
                    found[name] = known_cost(name, cost, architecture)
        return found

    def _search(self, journaled: list[Entry]) -> list[list[Measurement]]:
        """Run the loop and return the measurements of each step; `journaled` are those of an earlier run."""
        steps: list[list[Measurement]] = []
        used = 0
        trained = self._train(0, (), replayed=bool(journaled))
        while trained and (candidates := self._affordable(self.searcher.ask(), steps)):
            step = self.searcher.step + 1
            known = journaled[used : used + len(candidates)]
            used += len(known)
            self._check_replay(step, candidates, known)
            trained = self._train(step, candidates, replayed=bool(known))
            measurements = [measurement for _, measurement in known]
            if trained:
                measurements += self._measure(step, candidates[len(known) :])
            if not measurements:
                break
            for measurement in measurements:
                self.searcher.tell(measurement.architecture, measurement)
            steps.append(measurements)
            if self._here() != self._saved:
                self._checkpoint()
            for callback in self.callbacks:
                callback.on_step(step, measurements)
        if used < len(journaled):
            raise self._replay_error(
                f"it has {len(journaled)} measurements, but the search ended after {used}"
            )
        return steps

    def _affordable(
        self, candidates: list[Architecture], steps: Sequence[Sequence[Measurement]]
    ) -> list[Architecture]:
        """Return the first of these candidates, those that the budget has room for."""
        if self.evaluations is not None:
            candidates = candidates[: self.evaluations - sum(map(len, steps))]
        if self.seconds is not None and isinstance(self.evaluator, TabularEvaluator):
            measured = [measurement.architecture for step in steps for measurement in step]
            spent = itertools.accumulate(self.evaluator.trainings([*measured, *candidates]))
            candidates = candidates[: sum(total <= self.seconds for total in spent) - len(measured)]
        return candidates

    def _measure(self, step: int, candidates: Sequence[Architecture]) -> list[Measurement]:
        """Measure candidates of a step, and write the journal, until the seconds are spent.

        All are measured at once, or, where there are seconds, as many as fit in those that are left.
        """
        measurements: list[Measurement] = []
        while (rest := candidates[len(measurements) :]) and not self._is_over():
            room = self._world.share(lambda: self._stopwatch.room(self._pace))
            part = rest if room is None else rest[: max(room, self._world.size)]
            began = self._stopwatch.spent
            found = self.evaluator(part)
            seconds = self._stopwatch.spent - began
            self._pace = seconds / len(part)
            results = {self._text(one.architecture): one.top1 for one in found}
            self._log("evaluation", step=step, seconds=seconds, top1=results)
            if self._journal is not None:
                self._journal.append(step, found)
            self._save_clock()
            self._written += len(part)
            measurements += found
        return measurements

    def _is_over(self) -> bool:
        """Return whether the seconds are spent, on which all processes agree."""
        return self._stopwatch.most is not None and self._world.any(self._stopwatch.over)[0]

    def _train(self, step: int, candidates: Sequence[Architecture], *, replayed: bool) -> bool:
        """Train a step from the position of the weights, and return whether that is done.

        It is not where the seconds are spent before. A step that was measured is trained in any case.
        """
        trainer = self.trainer
        if trainer is None or trainer.finished(step):
            return True
        if not replayed and self._is_over():
            return False
        at, batch = trainer.position
        train_with_checkpoints(
            trainer.train(step, candidates, start=batch if at == step else 0),
            self._clock,
            self._checkpoint,
            self._on_progress,
            what=f"step {step}",
            directory=self.directory,
            world=self._world,
            over=lambda: not replayed and self._stopwatch.over,
        )
        return trainer.finished(step)

    def _on_progress(self, progress: Progress) -> None:
        for callback in self.callbacks:
            callback.on_progress(progress)
        if progress.last_of_epoch:
            self._log("epoch", **dataclasses.asdict(progress))

    def _begin(self, resume: bool, cleanup: ExitStack) -> list[Entry]:
        """Open the study's files, and bring all processes to the state that these hold."""
        self.description = description = self._describe()
        self._world.check_same("study", description | {"initial_weights": None})  # rank 0's are taken
        journaled, self.description, self._saved, before = self._world.share(
            lambda: (self._open(resume, cleanup), self.description, self._saved, self._open_clock(cleanup))
        )
        self._stopwatch.start(before)
        self._written = len(journaled)
        self._clock.restart()
        if self._world.size > 1:
            self._take_weights()
        return journaled

    def _take_weights(self) -> None:
        """Take the weights of rank 0, and the position of its trainer."""
        trainer, supernet = self.trainer, self.evaluator.supernet
        if trainer is not None:
            trainer.load_state(*self._world.share(trainer.state))
        elif supernet is not None:
            supernet.load_state_dict(self._world.share(supernet.state_dict))

    def _open(self, resume: bool, cleanup: ExitStack) -> list[Entry]:
        """Start or continue the study's files; load the weights of the checkpoint."""
        trainer, directory = self.trainer, self.directory
        if directory is None:
            self._check_untrained()
            return []
        directory.mkdir(parents=True, exist_ok=True)
        journal_path, checkpoint_path = directory / JOURNAL, directory / CHECKPOINT
        if not resume:
            refuse_started(directory, "a study")
        started = journal_path.exists()
        saved = None
        if trainer is not None and checkpoint_path.exists():
            saved = checkpoint.load(checkpoint_path)
        if started:
            journal = self._continue_journal(journal_path, checkpoint_path, saved)
        else:
            if saved is not None and tuple(saved[1]["position"]) != (0, 0):
                raise JournalError(
                    f"{journal_path} is missing, but {checkpoint_path} is of a study that had begun: put the "
                    "journal back, or choose another directory"
                )
            # The initial weights come first, so that they are on disk whenever there is a journal.
            self._check_untrained()
            self._checkpoint()
            journal = Journal.create(journal_path, self.description)
        self._journal = cleanup.enter_context(journal)
        cleanup.callback(setattr, self, "_journal", None)
        self._log = _open_log(directory / LOG, cleanup)
        cleanup.callback(setattr, self, "_log", _no_log)
        self._log("resume" if started else "start", measured=len(journal.entries))
        return list(journal.entries)

    def _open_clock(self, cleanup: ExitStack) -> float:
        """Return the seconds that earlier runs of the study took; keep the file that says so up to date."""
        if self.directory is None or self._stopwatch.most is None:
            return 0.0
        cleanup.callback(self._save_clock)
        path = self.directory / CLOCK
        try:
            return as_number(SECONDS, json.loads(path.read_text(encoding="utf-8"))[SECONDS], minimum=0)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise JournalError(
                f"{path} is missing or damaged ({error!r}): restore it, or write the seconds that the search "
                f'has taken into it, as {{"{SECONDS}": 60}}'
            ) from error

    def _save_clock(self) -> None:
        """Write the seconds that the study has taken, of one that may take so many."""
        if self.directory is not None and self._stopwatch.most is not None and self._world.main:
            atomic_write_json(self.directory / CLOCK, {SECONDS: self._stopwatch.spent})

    def _describe(self) -> dict[str, Any]:
        """Return what the result is a function of, as JSON values: the journal's header."""
        supernet = self.evaluator.supernet
        description: dict[str, Any] = {
            "searcher": self.searcher.describe(),
            "supernet": None if supernet is None else supernet.describe(),
            "evaluator": self.evaluator.describe(),
            "trainer": None if self.trainer is None else self.trainer.describe(),
            "initial_weights": None if supernet is None else checkpoint.digest(supernet.state_dict())[:32],
        }
        budget = {"evaluations": self.evaluations, "seconds": self.seconds}
        if given := {name: most for name, most in budget.items() if most is not None}:
            description["budget"] = given
        return json.loads(json.dumps(description))

    def _check_untrained(self) -> None:
        if self.trainer is not None and self.trainer.position != (0, 0):
            step, batch = self.trainer.position
            raise ValueError(
                f"trainer has trained already, to batch {batch} of step {step}; a study needs a new one"
            )

    def _continue_journal(
        self, path: Path, checkpoint_path: Path, saved: tuple[dict[str, torch.Tensor], dict[str, Any]] | None
    ) -> Journal:
        if saved is None:
            # Training begins again, so the supernet has to have its first weights: the header has a digest.
            self._check_untrained()
            self._go_farther(path)
            return Journal.open(path, header=self.description)
        tensors, metadata = saved
        study = metadata.get("study", {})
        # The checkpoint's weights are taken, so those that the supernet has now need not be the first ones.
        self.description["initial_weights"] = study.get("initial_weights")
        self._go_farther(path)
        journal = Journal.open(path, metadata.get("journal_entries", 0), header=self.description)
        try:
            if not self._goes_beyond(study):
                raise checkpoint.CheckpointError(
                    f"{checkpoint_path} is of another study than {path}: put back the one that belongs to "
                    "it; or delete it, and resuming trains again from the start"
                )
            assert self.trainer is not None
            self.trainer.load_state(tensors, metadata)
            self._saved = self.trainer.position, metadata["journal_entries"]
        except BaseException:
            journal.close()
            raise
        return journal

    def _go_farther(self, path: Path) -> None:
        """Let a journal say how far the search goes now, if that is farther and all else is the same."""
        header, _ = Journal.read(path)
        if header == self.description or not self._goes_beyond(header):
            return
        if self._trained_for_fewer(header):
            raise JournalError(
                f"{path} cannot go on to more architectures: its supernet was trained for those of each "
                "step, and more of them would have been another training; start the search anew elsewhere"
            )
        Journal.rewrite_header(path, self.description)
        path.with_name(RESULT).unlink(missing_ok=True)

    def _trained_for_fewer(self, earlier: dict[str, Any]) -> bool:
        """Return whether the supernet may have been trained for a step that has more architectures now."""
        if not self._trains_in_steps():
            return False
        now, extent = self.description["searcher"], self.searcher.extent
        by_number = extent is not None and now[extent] == self.searcher.most  # not by depth or generations
        farther = by_number and earlier["searcher"] != now
        before, budget = (one.get("budget", {}) for one in (earlier, self.description))
        return farther or before.get("evaluations") != budget.get("evaluations")

    def _goes_beyond(self, earlier: dict[str, Any]) -> bool:
        """Return whether a description is that of this study, or of one that ended sooner."""
        if "searcher" not in earlier:
            return False
        now, extent = self.description["searcher"], self.searcher.extent
        searcher = dict(earlier["searcher"])
        if extent is not None and _is_at_most(searcher.get(extent), now[extent]):
            searcher[extent] = now[extent]
        budget, own = dict(earlier.get("budget", {})), self.description.get("budget", {})
        for name, most in (("evaluations", self.evaluations), ("seconds", self.seconds)):
            if name in budget and _is_at_most(budget[name], most):
                budget[name] = own.get(name)
        adjusted = {**earlier, "searcher": searcher, "budget": budget}
        return adjusted == {**self.description, "budget": {**dict.fromkeys(budget), **own}}

    def _checkpoint(self) -> None:
        self._save_clock()
        if self.trainer is None or self.directory is None:
            return
        tensors, values = self.trainer.state()
        if self._world.main:
            metadata = {**values, "journal_entries": self._written, "study": self.description}
            checkpoint.save(self.directory / CHECKPOINT, tensors, metadata)
        self._saved = self._here()
        self._clock.restart()

    def _here(self) -> tuple[object, int]:
        """Return the state of the study: the position of training, and how much was measured."""
        return None if self.trainer is None else self.trainer.position, self._written

    def _check_replay(self, step: int, candidates: Sequence[Architecture], known: Sequence[Entry]) -> None:
        for asked, (at, measurement) in zip(candidates, known, strict=False):
            if (at, measurement.architecture) != (step, tuple(asked)):
                raise self._replay_error(
                    f"it has {self._text(measurement.architecture)} of step {at} where the search asks for "
                    f"{self._text(asked)} in step {step}"
                )

    def _result(self, steps: list[list[Measurement]]) -> StudyResult:
        candidates = [self._measured(measurement) for step in steps for measurement in step]
        ended_by_seconds = self._ended_by_seconds(len(candidates))
        if not candidates and ended_by_seconds:
            resume = "try" if self.directory is None else f"resume {self.directory} with"
            raise TimeoutError(
                f"{self.seconds:.10g} seconds were not enough to measure anything; {resume} more of them"
            )
        if not candidates:
            raise ValueError("the searcher asked for no architecture at all; nothing was measured")
        by_architecture = {candidate.architecture: candidate for candidate in candidates}
        winners = {
            depth: by_architecture[architecture]
            for depth, (architecture, _) in getattr(self.searcher, "winners", {}).items()
        }
        eligible = [one for one in candidates if self.searcher.may_win(one.architecture)]
        if not eligible:
            raise ValueError(
                f"none of the {len(candidates)} architectures that were measured may be the best: none meets "
                "what the search asks of it; give it more evaluations, or a looser bound"
            )
        of_table = self.evaluator.supernet is None
        best, highest = choose_best(eligible, self._cost, exact=of_table)
        if isinstance(self.evaluator, TabularEvaluator):
            best = dataclasses.replace(best, test_top1=self.evaluator.test_top1(best.architecture))
        others = {one.architecture: one for one in eligible if one.architecture != best.architecture}
        certainty = certainty_of(
            (best.name, best.measurement), [(one.name, one.measurement) for one in others.values()]
        )
        return StudyResult(
            best,
            highest,
            winners,
            steps,
            self.description,
            candidates,
            certainty,
            ended_by_seconds=ended_by_seconds,
            ended_early=self.searcher.ended_early,
        )

    def _ended_by_seconds(self, measured: int) -> bool:
        """Return whether a search that has ended would go on if it had more seconds."""
        if self.seconds is None or measured == self.evaluations:
            return False
        return bool(self.searcher.ask())

    def _cost(self, candidate: Measured) -> float:
        """Return the cost that the best is chosen by: the searcher's, or bit operations, or FLOPs."""
        if self.searcher.cost is not None:
            return float(self.searcher.cost(candidate.architecture))
        return candidate.costs.get("bitops", candidate.costs.get("flops", 0.0))

    @property
    def weights(self) -> str:
        """The weights that are compared: `FAVORED` if each step trains its candidates, else `INHERITED`."""
        return FAVORED if self._trains_in_steps() else INHERITED

    def _compared(self, result: StudyResult) -> StudyResult:
        """Return the result with its comparison, which is measured anew each time: it has no journal."""
        began, winner, measured = time.perf_counter(), result.best.architecture, len(result.candidates)
        found = compare(self.evaluator, self.searcher, winner, measured, self.baselines, self.weights)
        self._log("comparison", seconds=time.perf_counter() - began)
        return dataclasses.replace(result, comparison=found)

    def _trains_in_steps(self) -> bool:
        """Return whether the supernet is trained for the candidates of each step, as NIR does."""
        return self.trainer is not None and bool(self.trainer.epochs(1))

    def write(self, result: StudyResult) -> None:
        """Write result.json: the result of `run`, to which the caller may have added `from_scratch`."""
        if self.directory is not None and self._world.main:
            text = json.dumps(result.to_json(), indent=1, allow_nan=False)
            atomic_write_text(self.directory / RESULT, text + "\n")

    def _measured(self, measurement: Measurement) -> Measured:
        architecture = measurement.architecture
        return Measured(measurement, self._text(architecture), self.costs(architecture))

    def _text(self, architecture: Architecture) -> str:
        return self.evaluator.space.format(architecture)

    def _replay_error(self, problem: str) -> JournalError:
        assert self.directory is not None
        return JournalError(
            f"{self.directory / JOURNAL} is not of this search: {problem}. It may be of another version "
            "of lasfast; continue with that one, or start the study again elsewhere"
        )


def _is_at_most(earlier: float | None, now: float | None) -> bool:
    """Return whether a number is at most another, where None has no bound."""
    return now is None or (earlier is not None and earlier <= now)


def _no_log(event: str, **values: Any) -> None:
    """Log nothing, as a study without a directory does."""


def _open_log(path: Path, cleanup: ExitStack) -> Callable[..., None]:
    """Return a function that appends an event to a file of JSON lines, flushed but not forced to disk."""
    file = cleanup.enter_context(path.open("a+b"))
    if file.seek(0, os.SEEK_END):
        # A kill may have left half a line.
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")

    def log(event: str, **values: Any) -> None:
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}).encode() + b"\n"
        with naming(path):
            file.write(line)
            file.flush()

    return log
