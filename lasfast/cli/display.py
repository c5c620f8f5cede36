"""The display of a study or a training while it runs: live on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lasfast import costs
from lasfast.evaluation.evaluator import Evaluator
from lasfast.measurements.measurement import Measurement
from lasfast.report import (
    Candidate,
    Run,
    candidates_of,
    cells_table,
    certainty_text,
    choice_text,
    comparison_table,
    comparison_text,
    end_text,
    ranking_table,
    space_of,
    unknown_noise_text,
)
from lasfast.runtime import distributed
from lasfast.searchers import NIR
from lasfast.spaces import Architecture
from lasfast.study.result import Measured, StudyResult, format_latency, latency_of
from lasfast.study.study import Callback, Study
from lasfast.supernets import LayerAssignmentSupernet
from lasfast.train import Progress as Training
from lasfast.train import SupernetTrainer

RECENT_STEPS = 20  # of a search, from whose pace the time left follows
LINE_SECONDS = 10.0  # between lines of one epoch where there is no terminal


def make_console(quiet: bool = False) -> Console:
    """Return the console for everything but errors; where it is a file, it is wide enough for tables.

    Of several processes, only that of rank 0 prints. Text is printed as it is: names of files may look like
    rich's markup.
    """
    console = Console(quiet=quiet or not distributed.world().main, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 120
    return console


class Meter:
    """Shows one line about a running training: a live bar on a terminal, else one line an epoch or so."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> Meter:
        if self.console.is_terminal and not self.console.quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._bar.add_task("", total=None, text="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, what: str, progress: Training, seconds_left: float) -> None:
        """Show where a training is."""
        text = (
            f"epoch {progress.epoch + 1}/{progress.epochs}  loss {progress.loss:.3f}  "
            f"accuracy {100 * progress.accuracy:.1f} %  {progress.images_per_second:.0f} images/s  "
            f"{format_seconds(seconds_left)} left"
        )
        self.tell(what, text, progress.done, progress.total, at_once=progress.last_of_epoch)

    def tell(self, what: str, text: str, done: int, total: int | None, *, at_once: bool = False) -> None:
        """Show how much of something is done; without a terminal, `at_once` or where some seconds passed."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=what, completed=done, total=total, text=text)
        elif at_once or time.monotonic() - self._printed > LINE_SECONDS:
            self.console.print(f"{what}  {text}")
            self._printed = time.monotonic()


class StudyDisplay(Callback):
    """Shows a study: training live, then the ranking of every step's candidates."""

    def __init__(self, console: Console, meter: Meter) -> None:
        self.console, self.meter = console, meter
        self._clock = WorkClock([])

    def on_start(self, study: Study) -> None:
        """Estimate the work ahead, from which the time left follows."""
        self._study = study
        self._clock = WorkClock(expected_work(study))

    def on_progress(self, progress: Training) -> None:
        """Show where the step's training is."""
        steps = self._clock.steps - 1
        what = f"step {progress.step}/{steps}" if progress.step else "warm-up"
        self.meter.show(what, progress, self._clock.left(progress.step, progress.done / progress.total))

    def on_step(self, step: int, measurements: Sequence[Measurement]) -> None:
        """Show the ranking of the step's candidates."""
        candidates = candidates_of(measurements, self._study.costs)
        depths = sorted({one.depth for one in candidates})
        where = f"depth {depths[0]}" if len(depths) == 1 else f"depths {depths[0]} to {depths[-1]}"
        self.console.print(ranking_table(f"step {step}, {where}: {len(candidates)} candidates", candidates))

    def on_finish(self, result: StudyResult) -> None:
        """Nothing: the command prints what the search ends with."""


class FrontDisplay(Callback):
    """Shows a study of any space: the training of its supernet, and a line for each new best."""

    def __init__(self, console: Console, meter: Meter | None = None) -> None:
        self.console, self.meter = console, meter
        self._clock = WorkClock([1.0])  # all training is one step
        self._measured = 0
        self._most: int | None = None
        self._best: Architecture | None = None
        self._marks: deque[tuple[float, int]] = deque(maxlen=RECENT_STEPS)

    def on_start(self, study: Study) -> None:
        """Remember the study, and say how many architectures it measures."""
        self._study = study
        budgets = [one for one in (study.searcher.most, study.evaluations) if one is not None]
        if budgets:
            self._most = min(*budgets, study.evaluator.space.count())
            self.console.print(f"{self._most} architectures are measured, at most")
        elif study.seconds is None:
            self.console.print(
                f"this search has no end but its own, and there are {study.evaluator.space.count():.3g} "
                "architectures; --evaluations or --seconds bound it, and Ctrl-C leaves the best so far"
            )

    def on_progress(self, progress: Training) -> None:
        """Show where the training of the supernet is."""
        if self.meter is not None:
            left = self._clock.left(progress.step, progress.done / progress.total)
            self.meter.show("supernet", progress, left)

    def on_step(self, step: int, measurements: Sequence[Measurement]) -> None:
        """Show the best if it is a new one."""
        self._measured += len(measurements)
        self._tell_measured()
        searcher, evaluator = self._study.searcher, self._study.evaluator
        if not any(searcher.may_win(measurement.architecture) for measurement in measurements):
            return
        try:
            architecture, value = searcher.best
        except RuntimeError:  # the budget ended in the first step
            return
        if architecture != self._best:
            self._best = architecture
            text = evaluator.space.name(architecture)
            costs = self._study.costs(architecture)
            cost = f"  {costs['flops'] / 1e6:.1f} MFLOPs" if "flops" in costs else ""
            if latency := latency_of(costs):
                cost += f"  {format_latency(*latency)}"
            self.console.print(f"after {self._measured:6} measured: {text}  top-1 {100 * value:.2f} %{cost}")

    def _tell_measured(self) -> None:
        """Show how many architectures were measured, and how long the others take at the pace of late."""
        self._marks.append((time.perf_counter(), self._measured))
        (began, first), most = self._marks[0], self._most
        text = f"{self._measured} architectures"
        if most is not None:
            pace = (self._measured - first) / max(time.perf_counter() - began, 1e-9)
            left = (most - self._measured) / pace if pace else float("nan")
            text = f"{self._measured} of {most} architectures  {format_seconds(left)} left"
        if self.meter is not None:
            self.meter.tell("measured", text, self._measured, most)


class WorkClock:
    """Estimates the time left from the work of each step (multiply-adds, in any unit) and the work done."""

    def __init__(self, work: Sequence[float]) -> None:
        self.work = list(work)
        self.began = time.perf_counter()
        self.first: float | None = None

    @property
    def steps(self) -> int:
        """The number of steps, the warm-up included."""
        return len(self.work)

    def left(self, step: int, share: float) -> float:
        """Return the seconds left when `share` of a step is done; NaN of a step whose work is not known."""
        if step >= len(self.work):
            return float("nan")
        done = sum(self.work[:step]) + share * self.work[step]
        if self.first is None:
            self.first = done
            self.began = time.perf_counter()
            return float("nan")
        rate = (done - self.first) / (time.perf_counter() - self.began)
        return (sum(self.work) - done) / rate if rate else float("nan")


def expected_work(study: Study) -> list[float]:
    """Return the multiply-adds of training each step, the warm-up first, but for a factor that all share.

    The assignments that NIR will try are not known; the most even one of each depth stands for them.
    """
    trainer, searcher = study.trainer, study.searcher
    if not isinstance(trainer, SupernetTrainer):
        return []
    supernet = trainer.supernet
    assert isinstance(supernet, LayerAssignmentSupernet)
    size = image_size(study)

    def work(step: int, candidates: Sequence[tuple[int, ...]]) -> float:
        every = [costs.flops(supernet, candidate, size) for candidate in candidates]
        trained = sum(every) if trainer.paths == "every" else sum(every) / max(1, len(every))
        return trainer.epochs(step) * (costs.flops(supernet, trainer.deepest, size) + trained)

    steps = [work(0, ())]
    if isinstance(searcher, NIR):
        for depth in range(sum(searcher.start) + 1, searcher.depth + 1):
            count = len(searcher.start) * (searcher.beam if depth > sum(searcher.start) + 1 else 1)
            steps.append(work(len(steps), [supernet.space.even(depth)] * count))
    else:
        steps.append(work(1, searcher.candidates))
    return steps


def image_size(study: Study) -> tuple[int, int]:
    """Return (height, width) of the images that a study measures on."""
    assert isinstance(study.evaluator, Evaluator)
    _, height, width = study.evaluator.image_shape
    return height, width


def watch(
    meter: Meter, title: Callable[[tuple[int, ...]], str]
) -> Callable[[tuple[int, ...], Training], None]:
    """Return a function that shows on a meter where the training of each network is."""
    before: dict[tuple[int, ...], int] = {}  # batches of an earlier run, from which this one goes on

    def show(architecture: tuple[int, ...], progress: Training) -> None:
        if progress.done <= before.get(architecture, progress.done):
            before[architecture] = progress.done - 1
        own = progress.done - before[architecture]
        left = progress.seconds / own * (progress.total - progress.done)
        meter.show(title(architecture), progress, left)

    return show


def show_end(console: Console, run: Run) -> None:
    """Show what ended a finished search before it had reached all that it was to, if anything did."""
    if text := end_text(run):
        more = f"`lasfast resume {run.directory} --seconds ...` goes on with more"
        console.print(f"{text}; {more}", soft_wrap=True)
    if run.ended_early:
        console.print(run.ended_early, soft_wrap=True)


def show_cells(console: Console, run: Run) -> None:
    """Show the cells that a finished search found, as a table and as DARTS' text."""
    space, best = space_of(run), run.best
    if space is None or best is None:
        return
    architecture = best.measurement.architecture
    top1 = f"{100 * best.measurement.top1:.1f} % with inherited weights"
    console.print(cells_table(f"{run.title}: the best cells, {top1}", space, architecture))
    console.print(space.genotype(architecture), soft_wrap=True)


def show_certainty(console: Console, run: Run) -> None:
    """Show whether what a finished search found can be told from the others, or that nothing tells it."""
    if run.certainty is not None:
        console.print(certainty_text(run.certainty))
    elif text := unknown_noise_text(run):
        console.print(text, soft_wrap=True)


def show_choice(console: Console, run: Run) -> None:
    """Show what it means that the best was chosen by its cost, too, where a finished search did so."""
    if text := choice_text(run):
        console.print(text, soft_wrap=True)


def show_whole_text(console: Console, shown: Measured | Candidate) -> None:
    """Show what the short name of an architecture stands for, if it has one."""
    if shown.name != shown.text:
        console.print(f"{shown.name} is {shown.text}", soft_wrap=True)


def show_comparison(console: Console, run: Run) -> None:
    """Show how what a finished search found compares with what costs the same, if that was measured."""
    if run.comparison is not None:
        console.print(comparison_table(f"{run.title}: the winner beside others", run.comparison))
        console.print(comparison_text(run.comparison))


def show_from_scratch(console: Console, run: Run) -> None:
    """Show how what a search found compares with what costs the same, if all were trained from scratch."""
    if run.from_scratch is not None:
        title = f"{run.title}: the winner beside others, from scratch"
        console.print(comparison_table(title, run.from_scratch))
        console.print(comparison_text(run.from_scratch))


def show_written(console: Console, directory: Path, written: Mapping[str, str]) -> None:
    """Print the files that a command left in a directory, each with what it holds."""
    console.print(f"\nwritten to {directory}:")
    for file, what in written.items():
        console.print(f"  {file:<24}  {what}")


def format_seconds(seconds: float) -> str:
    """Return seconds as 0:07, 12:34 or 1:02:03; NaN as -:--."""
    if seconds != seconds:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
