"""The study: the one loop of a search, and what it leaves on disk.

A step of the loop asks the searcher for candidates, trains the supernet for them, measures all of them,
writes them to the journal and tells the searcher. Resuming runs the same loop over the journal again: what
was measured is told from there, what was trained is skipped. Since training, measuring and searching are
functions of their seeds and position, a study killed at any moment ends with the same bytes as one that never
was.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from lasfast.core.files import atomic_write_text
from lasfast.core.interrupt import deferred_interrupt
from lasfast.measurements.evaluation import Evaluation
from lasfast.measurements.journal import Entry, Journal, JournalError
from lasfast.measurements.measurement import Measurement
from lasfast.runtime import distributed
from lasfast.searchers import Searcher
from lasfast.spaces import Architecture
from lasfast.study.result import Measured, StudyResult
from lasfast.train import PathTrainer, Progress, checkpoint

JOURNAL, CHECKPOINT, LOG, RESULT = "journal.jsonl", "checkpoint.safetensors", "log.jsonl", "result.json"


class Callback:
    """What can watch a study; override what is wanted. Called in the study's own thread, between its work."""

    def on_start(self, study: Study) -> None:
        """The study begins or resumes; nothing was trained in this run yet."""

    def on_progress(self, progress: Progress) -> None:
        """A batch was trained."""

    def on_step(self, step: int, measurements: Sequence[Measurement]) -> None:
        """A step (from 1) was measured and told; on resuming also those told from the journal."""

    def on_finish(self, result: StudyResult) -> None:
        """The search has ended and everything is written."""


class Study:
    """Runs a search: `Study(searcher, evaluator, trainer=trainer, directory="runs/nir").run()`.

    Args:
        searcher: proposes and learns; not told anything yet.
        evaluator: measures, on its supernet, or looks up in a table, or trains from scratch.
        trainer: trains the same supernet, step by step or before the first; None searches it as it is.
        directory: where to write; None writes nothing. A study leaves `journal.jsonl` (every measurement),
            `checkpoint.safetensors` (weights, momentum, position; with a trainer), `result.json` (when
            finished) and `log.jsonl` (times and losses, for information: it is not read again).
        callbacks: what watches.
        checkpoint_seconds: how often to checkpoint during training. It is done at the end of a step anyway.

    Within `lasfast.distributed.start`, all ranks make and run the same study: they train together and share
    out what is to be measured. Rank 0 alone calls callbacks, and reads and writes files.

    Raises:
        TypeError, ValueError: arguments that do not fit together.
    """

    def __init__(
        self,
        searcher: Searcher,
        evaluator: Evaluation,
        trainer: PathTrainer | None = None,
        directory: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint_seconds: float = 60,
    ) -> None:
        if trainer is not None and trainer.supernet is not evaluator.supernet:
            raise ValueError("trainer and evaluator have different supernets; expected the same object")
        for architecture in () if searcher.after_training else searcher.ask():
            if architecture not in evaluator.space:
                owner = "table" if evaluator.supernet is None else "supernet"
                raise ValueError(
                    f"searcher asks for {architecture}, which is not in the {owner}'s space, "
                    f"{evaluator.space}"
                )
        if not checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds is {checkpoint_seconds!r}; expected 0 or more")
        self.searcher = searcher
        self.evaluator = evaluator
        self.trainer = trainer
        self.directory = None if directory is None else Path(directory)
        self._world = distributed.world()
        self.callbacks = tuple(callbacks) if self._world.main else ()
        self.checkpoint_seconds = checkpoint_seconds
        self.description: dict[str, Any] = {}
        self._journal: Journal | None = None
        self._log: Callable[..., None] = _no_log
        self._written = 0  # measurements, in this run and those before
        self._saved: tuple[object, int] | None = None
        self._saved_at = 0.0

    def run(self, resume: bool = False) -> StudyResult:
        """Search to the end.

        With `resume=True` a study in `directory` goes on where it stopped, or is read again if it had ended,
        the weights included; where there is none yet, it starts.

        Raises:
            FileExistsError: there is a study in `directory`, and `resume` is False.
            JournalError, CheckpointError: a damaged file, a study with other settings, or one that another
                process is running; the text says which and what to do.
            NonFiniteLossError: training diverged; the last checkpoint stays.
            ValueError: nothing was measured, or nothing that may be the best; what was is in the journal.
            KeyboardInterrupt: Ctrl-C. What is on disk can be resumed; the batch at hand is finished first.
        """
        if resume and self.directory is None:
            raise ValueError("resume is True, but the study has no directory to resume from")
        if resume:
            self.searcher.load_state({"searcher": self.searcher.describe(), "told": []})
        elif self.searcher.results:
            raise ValueError("searcher was told results before; a study needs a new one")
        with ExitStack() as cleanup:
            journaled = self._begin(resume, cleanup)
            for callback in self.callbacks:
                callback.on_start(self)
            steps = self._search(journaled)
            result = self._result(steps)
            if self.directory is not None and self._world.main:
                text = json.dumps(result.to_json(), indent=1, allow_nan=False)
                atomic_write_text(self.directory / RESULT, text + "\n")
            self._log("finish", best=result.best.text, top1=result.best.top1)
        for callback in self.callbacks:
            callback.on_finish(result)
        return result

    def _search(self, journaled: list[Entry]) -> list[list[Measurement]]:
        """The loop. `journaled` is what an earlier run measured."""
        steps: list[list[Measurement]] = []
        used = 0
        self._train(0, ())
        while candidates := self.searcher.ask():
            step = self.searcher.step + 1
            known = journaled[used : used + len(candidates)]
            used += len(known)
            self._check_replay(step, candidates, known)
            self._train(step, candidates)
            measurements = [measurement for _, measurement in known]
            if len(known) < len(candidates):
                measurements += self._measure(step, candidates)[len(known) :]
                if self._journal is not None:
                    self._journal.append(step, measurements[len(known) :])
                self._written += len(candidates) - len(known)
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

    def _measure(self, step: int, candidates: Sequence[Architecture]) -> list[Measurement]:
        began = time.perf_counter()
        measurements = self.evaluator(candidates)
        results = {self._text(m.architecture): m.top1 for m in measurements}
        self._log("evaluation", step=step, seconds=time.perf_counter() - began, top1=results)
        return measurements

    def _train(self, step: int, candidates: Sequence[Architecture]) -> None:
        """Train a step from where the weights stand; nothing where they are past it."""
        trainer = self.trainer
        if trainer is None or trainer.finished(step):
            return
        at, batch = trainer.position
        with deferred_interrupt() as interrupted:
            for progress in trainer.train(step, candidates, start=batch if at == step else 0):
                for callback in self.callbacks:
                    callback.on_progress(progress)
                if progress.last_of_epoch:
                    self._log("epoch", **dataclasses.asdict(progress))
                due = time.monotonic() - self._saved_at >= self.checkpoint_seconds
                due, stop = self._world.any(due, interrupted())
                if due or stop:
                    self._checkpoint()
                if stop:
                    raise KeyboardInterrupt(self._stopped(progress))

    def _stopped(self, progress: Progress) -> str:
        where = f"stopped in step {progress.step}, after batch {progress.done} of {progress.total}"
        if self.directory is None:
            return f"{where}; the study has no directory, so it cannot be resumed"
        return f"{where}; {self.directory} holds everything up to here: resume it to go on"

    def _begin(self, resume: bool, cleanup: ExitStack) -> list[Entry]:
        """Open the study's files, and bring all ranks to where they leave it."""
        self.description = description = self._describe()
        self._world.check_same("study", description | {"initial_weights": None})  # rank 0's are taken
        journaled, self.description, self._saved = self._world.share(
            lambda: (self._open(resume, cleanup), self.description, self._saved)
        )
        self._written = len(journaled)
        self._saved_at = time.monotonic()
        if self._world.size > 1:
            self._take_weights()
        return journaled

    def _take_weights(self) -> None:
        """Go on from the weights of rank 0, and from where its trainer stands."""
        trainer, supernet = self.trainer, self.evaluator.supernet
        if trainer is not None:
            trainer.load_state(*self._world.share(trainer.state))
        elif supernet is not None:
            supernet.load_state_dict(self._world.share(supernet.state_dict))

    def _open(self, resume: bool, cleanup: ExitStack) -> list[Entry]:
        """Start or continue the study's files; bring the weights to where the checkpoint has them."""
        trainer, directory = self.trainer, self.directory
        if directory is None:
            self._check_untrained()
            return []
        directory.mkdir(parents=True, exist_ok=True)
        journal_path, checkpoint_path = directory / JOURNAL, directory / CHECKPOINT
        started = journal_path.exists()
        if started and not resume:
            raise FileExistsError(
                f"{directory} holds a study already; resume it (resume=True; --resume on the command line), "
                "or choose another directory"
            )
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
            # The initial weights first: from the first line of the journal on, they can be had again.
            self._check_untrained()
            self._checkpoint()
            journal = Journal.create(journal_path, self.description)
        self._journal = cleanup.enter_context(journal)
        cleanup.callback(setattr, self, "_journal", None)
        self._log = _open_log(directory / LOG, cleanup)
        cleanup.callback(setattr, self, "_log", _no_log)
        self._log("resume" if started else "start", measured=len(journal.entries))
        return list(journal.entries)

    def _describe(self) -> dict[str, Any]:
        """What the result is a function of, as JSON values: the journal's header."""
        supernet = self.evaluator.supernet
        description = {
            "searcher": self.searcher.describe(),
            "supernet": None if supernet is None else supernet.describe(),
            "evaluator": self.evaluator.describe(),
            "trainer": None if self.trainer is None else self.trainer.describe(),
            "initial_weights": None if supernet is None else checkpoint.digest(supernet.state_dict())[:32],
        }
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
            # Trains again from the start, so the supernet has to be as it was then: the header says.
            self._check_untrained()
            return Journal.open(path, header=self.description)
        tensors, metadata = saved
        study = metadata.get("study", {})
        # With the weights at hand, it does not matter which ones the supernet had in this process.
        self.description["initial_weights"] = study.get("initial_weights")
        journal = Journal.open(path, metadata.get("journal_entries", 0), header=self.description)
        try:
            if study != self.description:
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

    def _checkpoint(self) -> None:
        if self.trainer is None or self.directory is None:
            return
        tensors, values = self.trainer.state()
        if self._world.main:
            metadata = {**values, "journal_entries": self._written, "study": self.description}
            checkpoint.save(self.directory / CHECKPOINT, tensors, metadata)
        self._saved = self._here()
        self._saved_at = time.monotonic()

    def _here(self) -> tuple[object, int]:
        """Where the study stands: what was trained and how much was measured."""
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
        if not candidates:
            raise ValueError("the searcher asked for no architecture at all; nothing was measured")
        by_architecture = {candidate.architecture: candidate for candidate in candidates}
        winners = {
            depth: by_architecture[architecture]
            for depth, (architecture, _) in getattr(self.searcher, "winners", {}).items()
        }
        try:
            best, _ = self.searcher.best
        except RuntimeError:
            raise ValueError(
                f"none of the {len(candidates)} architectures that were measured may be the best: none meets "
                "what the search asks of it; give it more evaluations, or a looser bound"
            ) from None
        return StudyResult(by_architecture[best], winners, steps, self.description, candidates)

    def _measured(self, measurement: Measurement) -> Measured:
        architecture = measurement.architecture
        return Measured(measurement, self._text(architecture), self.evaluator.costs(architecture))

    def _text(self, architecture: Architecture) -> str:
        return self.evaluator.space.format(architecture)

    def _replay_error(self, problem: str) -> JournalError:
        assert self.directory is not None
        return JournalError(
            f"{self.directory / JOURNAL} is not of this search: {problem}. It may be of another version "
            "of lasfast; continue with that one, or start the study again elsewhere"
        )


def _no_log(event: str, **values: Any) -> None:
    """What a study without a directory logs to."""


def _open_log(path: Path, cleanup: ExitStack) -> Callable[..., None]:
    """A function that appends an event to a file of JSON lines, flushed but not forced to disk."""
    file = cleanup.enter_context(path.open("a+b"))
    if file.seek(0, os.SEEK_END):
        # A kill may have left half a line.
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")

    def log(event: str, **values: Any) -> None:
        file.write(json.dumps({"time": round(time.time(), 3), "event": event, **values}).encode() + b"\n")
        file.flush()

    return log
