"""Training with checkpoints: one is written every so many seconds, and before Ctrl-C ends the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lasfast.core.interrupt import deferred_interrupt
from lasfast.runtime.distributed import World
from lasfast.train import Progress


class CheckpointClock:
    """Says when a checkpoint is due: `seconds` after the last one.

    Raises:
        ValueError: `seconds` is negative.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"checkpoint_seconds must be 0 or more, got {seconds!r}")
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Begin anew: a checkpoint was written just now, or training begins."""
        self._began = time.monotonic()

    @property
    def due(self) -> bool:
        """Return whether the seconds have passed."""
        return time.monotonic() - self._began >= self.seconds


def train_with_checkpoints(
    training: Iterable[Progress],
    clock: CheckpointClock,
    save: Callable[[], None],
    on_progress: Callable[[Progress], None],
    *,
    what: str,
    directory: Path | None,
    world: World,
    over: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end, or until the time for it is over, and write checkpoints on the way.

    Args:
        training: trains a batch for each progress that it gives.
        clock: says when a checkpoint is due.
        save: writes one.
        on_progress: is called after each batch.
        what: the training's name, for the text of the interruption.
        directory: where the checkpoints are; None where none are written.
        world: the processes that train together, which write and stop after the same batch.
        over: says whether the time for it is over; the batch at hand is finished, and a checkpoint written.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the batch at hand was finished, and a checkpoint written.
    """
    with deferred_interrupt() as interrupted:
        for progress in training:
            on_progress(progress)
            due, stop, end = world.any(clock.due, interrupted(), over())
            if due or stop or end:
                save()
                clock.restart()
            if stop:
                where = f"stopped in {what}, after batch {progress.done} of {progress.total}"
                if directory is None:
                    raise KeyboardInterrupt(f"{where}; the study has no directory, so it cannot be resumed")
                raise KeyboardInterrupt(
                    f"{where}; {directory} holds everything up to here: resume it to go on"
                )
            if end:
                return
