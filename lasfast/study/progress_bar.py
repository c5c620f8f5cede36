"""Progress bars of a study, on a terminal and in notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lasfast import train
from lasfast.measurements.measurement import Measurement
from lasfast.study.result import StudyResult
from lasfast.study.study import Callback, Study


class ProgressBar(Callback):
    """Shows two bars while a study runs: of its training, and of the architectures that it measures.

        lasfast.Study(searcher, evaluator, trainer=trainer, callbacks=[lasfast.study.ProgressBar()]).run()

    rich draws them, in notebooks through ipywidgets (the extra `notebook`); where that is missing, there is a
    line for each step instead. The second bar has no end where nothing says how many architectures the
    searcher asks for.

    Args:
        console: where to draw; None takes the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console() if console is None else console
        # rich would warn, and draw nothing until the end.
        self._lines = self._console.is_jupyter and find_spec("ipywidgets") is None

    def on_start(self, study: Study) -> None:
        """Draw the bars."""
        bounds = [one for one in (study.searcher.most, study.evaluations) if one is not None]
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._bars = Progress(*columns, console=self._console, disable=self._lines)
        self._training = self._bars.add_task("training", total=None, text="", visible=False)
        most = min(*bounds, study.evaluator.space.count()) if bounds else None
        self._measuring = self._bars.add_task("architectures", total=most, text="")
        self._measured, self._most, self._highest = 0, most, 0.0
        self._bars.start()

    def on_progress(self, progress: train.Progress) -> None:
        """Show where the training of the step is."""
        text = f"epoch {progress.epoch + 1} of {progress.epochs}, loss {progress.loss:.3f}"
        what = f"training, step {progress.step}" if progress.step else "training"
        self._bars.update(
            self._training,
            description=what,
            total=progress.total,
            completed=progress.done,
            text=text,
            visible=True,
        )

    def on_step(self, step: int, measurements: Sequence[Measurement]) -> None:
        """Show how many were measured, and the highest accuracy of all."""
        self._highest = max([self._highest, *(one.top1 for one in measurements)])
        text = f"highest top-1 {100 * self._highest:.1f} %"
        self._bars.update(self._measuring, advance=len(measurements), text=text)
        self._measured += len(measurements)
        if self._lines:
            bound = "" if self._most is None else f" of {self._most}"
            self._console.print(f"step {step}: {self._measured}{bound} architectures, {text}")

    def on_finish(self, result: StudyResult) -> None:
        """Leave the bars as they ended."""
        self._bars.stop()

    def on_stop(self) -> None:
        """Leave the bars as they are where the study was stopped or failed."""
        self._bars.stop()
