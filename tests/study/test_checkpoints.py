"""When checkpoints are written while training goes on."""

import dataclasses
import os
import signal

import pytest

from lasfast.runtime.distributed import World
from lasfast.study.checkpoints import CheckpointClock, train_with_checkpoints
from lasfast.train import Progress

PROGRESS = Progress(0, 0, 1, 0, 3, 0.1, 1.0, 0.5, 1.0, 1.0)


def training(batches=3):
    for batch in range(batches):
        yield dataclasses.replace(PROGRESS, batch=batch)


def train(seconds, on_progress=lambda progress: None, directory=None, world=None, **options):
    """Train three batches, and return how many were done at each checkpoint."""
    done, saved = [], []
    train_with_checkpoints(
        training(),
        CheckpointClock(seconds),
        lambda: saved.append(len(done)),
        lambda progress: (done.append(progress), on_progress(progress)),
        what="step 4",
        directory=directory,
        world=world or World(),
        **options,
    )
    return saved


@pytest.mark.parametrize(("seconds", "saved"), [(0, [1, 2, 3]), (1000, [])])
def test_a_checkpoint_is_written_when_it_is_due(seconds, saved):
    assert train(seconds) == saved


def test_all_processes_write_when_one_is_due():
    class Late(World):
        def any(self, *flags):
            return (True, *flags[1:])

    assert train(1000, world=Late()) == [1, 2, 3]


def test_training_ends_with_a_checkpoint_when_its_time_is_over():
    seen = []
    assert train(1000, seen.append, over=lambda: len(seen) == 2) == [2]
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("directory", "text"),
    [
        ("runs/here", "stopped in step 4, after batch 2 of 3; runs/here holds everything up to here: resume"),
        (None, "stopped in step 4, after batch 2 of 3; the study has no directory, so it cannot be resumed"),
    ],
)
def test_ctrl_c_ends_training_after_the_batch_and_a_checkpoint(directory, text):
    seen = []

    def press(progress):
        seen.append(progress.batch)
        if progress.batch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=text):
        train(1000, press, directory)
    assert seen == [0, 1]


def test_negative_seconds_are_refused():
    with pytest.raises(ValueError, match="checkpoint_seconds must be 0 or more, got -1"):
        CheckpointClock(-1)
