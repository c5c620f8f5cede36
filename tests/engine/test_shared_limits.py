"""Limits of shared memory: a kernel's, not a launch's, so that launches of different sizes do not meet."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from lasfast.engine import conv_tiles
from lasfast.engine.conv_tiles import ConvTiles, Size, Trial
from lasfast.runtime import compiled

MOST = 227 << 10  # of the device for which the stand-in stands


@pytest.fixture
def launches(emulated_cuda, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Launches of one kernel that take more or less shared memory, by the channels of their inputs."""
    monkeypatch.setattr(conv_tiles, "POSITIONS", 16)
    tiles = ConvTiles(torch.device("cpu"), "bf16", tf32=False)
    usual = tiles.usual(Size(1, 8, 128))
    trials = [Trial(tiles, Size(1, channels, 128), usual) for channels in (8, 64)]
    return [lambda trial=trial: trial.run(usual) for trial in trials]


def test_a_limit_is_raised_once_to_the_devices(launches: list[Callable[[], None]]) -> None:
    assert {*compiled.load().set_shared_limits()} <= {MOST}  # of first launches, perhaps in other tests
    for launch in (*launches, *launches):
        launch()
    assert compiled.load().set_shared_limits() == []


def test_two_threads_may_launch_different_sizes(launches: list[Callable[[], None]]) -> None:
    """The runtime refuses a launch that takes more than the limit that was set last."""
    failures: list[BaseException] = []

    def again(launch: Callable[[], None]) -> None:
        try:
            for _ in range(30):
                launch()
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=again, args=(launch,)) for launch in launches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
