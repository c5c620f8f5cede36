"""Choosing the fastest way, and remembering it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from lasfast.core import entry_points
from lasfast.runtime import autotune

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own, and nothing remembered."""
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    return tmp_path / "cache"


def ways(**seconds: float) -> tuple[dict, list[str]]:
    called: list[str] = []

    def make(name: str):
        def run() -> str:
            called.append(name)
            until = time.thread_time() + seconds[name]
            while time.thread_time() < until:
                pass
            return name

        return run

    return {name: make(name) for name in seconds}, called


def test_the_fastest_is_taken_and_measured_once() -> None:
    found, called = ways(native=0.02, torch=0.001)
    assert autotune.fastest("a", CPU, found) == "torch"
    assert called.count("native") == called.count("torch") == autotune.RUNS + 1
    assert autotune.fastest("a", CPU, found) == "torch"
    assert len(called) == 2 * (autotune.RUNS + 1)


def test_the_first_is_taken_where_times_are_alike() -> None:
    found, _ = ways(native=0.02, torch=0.02)
    assert autotune.fastest("a", CPU, found) == "native"


def test_an_unfit_way_is_not_taken() -> None:
    found, called = ways(native=0.01, torch=0)

    def unfit() -> None:
        called.append("torch")
        raise autotune.UnfitError

    assert autotune.fastest("a", CPU, found | {"torch": unfit}) == "native"
    assert called.count("torch") == 1
    assert autotune.fastest("a", CPU, found | {"torch": unfit}) == "native"


def test_another_process_remembers(cache: Path) -> None:
    autotune.fastest("a", CPU, ways(native=0.01, torch=0)[0])
    autotune.fastest("b", CPU, ways(native=0, torch=0.01)[0])
    (file,) = cache.iterdir()
    assert json.loads(file.read_text()) == {"a": "torch", "b": "native"}
    autotune._known.cache_clear()  # as a new process begins
    found, called = ways(native=0, torch=0.01)
    assert autotune.fastest("a", CPU, found) == "torch"
    assert not called


def test_the_first_process_to_write_decides(cache: Path) -> None:
    """Another one measured meanwhile."""
    autotune.fastest("a", CPU, ways(native=0.01, torch=0)[0])  # now this process has read the file
    (file,) = cache.iterdir()
    file.write_text(json.dumps({"a": "torch", "b": "torch", "c": "gone"}))
    for key, expected in (("b", "torch"), ("c", "native")):
        found, called = ways(native=0, torch=0.01)
        assert autotune.fastest(key, CPU, found) == expected
        assert called
        assert autotune.fastest(key, CPU, found) == expected
    assert json.loads(file.read_text()) == {"a": "torch", "b": "torch", "c": "native"}


def test_processes_that_choose_together_remember_what_one_of_them_took() -> None:
    found, called = ways(native=0, torch=0.01)

    def as_rank_1(work) -> str | None:  # rank 0 had measured before
        return "torch"

    assert autotune.fastest("a", CPU, found, as_rank_1) == "torch"
    assert autotune.fastest("a", CPU, found) == "torch"
    assert not called


def test_what_is_remembered_but_not_there_is_chosen_anew() -> None:
    autotune.fastest("a", CPU, ways(native=0.01, torch=0)[0])
    assert autotune.fastest("a", CPU, ways(other=0, native=0.01)[0]) == "other"


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    found, called = ways(native=0.01, torch=0)
    monkeypatch.setenv("LASFAST_CHOICE", "native")
    assert autotune.fastest("a", CPU, found) == "native"
    monkeypatch.setenv("LASFAST_CHOICE", "resident")  # which is none of these
    assert autotune.fastest("a", CPU, found) == "native"
    assert not called


def test_a_way_that_does_not_exist_is_refused_with_all_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", "fast")
    with pytest.raises(ValueError, match=r"LASFAST_CHOICE must be one of measure, (.*), got 'fast'") as error:
        autotune.fastest("a", CPU, ways(native=0, torch=0)[0])
    for name in ("native", "torch", "warpgroups", "levels", "resident", "resident alone"):
        assert f"{name}," in str(error.value)


def test_ways_of_modules_that_were_not_imported_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_ways.py").write_text("from lasfast.runtime import autotune; autotune.register('late')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(autotune, "_registered", {})
    monkeypatch.setitem(entry_points._registered, entry_points.AUTOTUNED_MODULES, ("late_ways",))
    monkeypatch.setenv("LASFAST_CHOICE", "late")
    assert autotune.fastest("a", CPU, ways(native=0, torch=0)[0]) == "native"
    monkeypatch.setenv("LASFAST_CHOICE", "later")
    with pytest.raises(ValueError, match="LASFAST_CHOICE must be one of measure, late, got 'later'"):
        autotune.fastest("a", CPU, ways(native=0, torch=0)[0])


@pytest.mark.cuda
def test_gpu_time_is_measured() -> None:
    small, large = (torch.randn(size, size, device="cuda") for size in (32, 4096))
    found = {"native": lambda: large @ large, "torch": lambda: small @ small}
    assert autotune.fastest("a", large.device, found) == "torch"


def test_while_a_graph_is_recorded_only_what_is_known_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    autotune.fastest("a", CPU, ways(native=0.01, torch=0)[0])
    monkeypatch.setattr(autotune, "is_capturing", lambda device: True)
    found, called = ways(native=0.01, torch=0)
    assert autotune.fastest("a", CPU, found) == "torch"
    assert autotune.fastest("b", CPU, found) == "native"
    assert not called
    monkeypatch.setattr(autotune, "is_capturing", lambda device: False)
    assert autotune.fastest("b", CPU, found) == "torch"


def test_one_way_is_not_measured(cache: Path) -> None:
    found, called = ways(torch=0)
    assert autotune.fastest("a", CPU, found) == "torch"
    assert not called
    assert not cache.exists()


def test_a_damaged_file_is_named_and_replaced(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    autotune.fastest("a", CPU, ways(native=0.01, torch=0)[0])
    (file,) = cache.iterdir()
    file.write_text("{")
    autotune._known.cache_clear()
    with caplog.at_level(logging.WARNING, logger="lasfast"):
        assert autotune.fastest("a", CPU, ways(native=0.01, torch=0)[0]) == "torch"
    assert str(file) in caplog.text
    assert json.loads(file.read_text()) == {"a": "torch"}


def test_a_directory_that_cannot_be_written_costs_only_the_memory(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file, where a directory should be")
    with caplog.at_level(logging.WARNING, logger="lasfast"):
        assert autotune.fastest("a", CPU, ways(native=0.01, torch=0)[0]) == "torch"
    assert "cannot be written" in caplog.text


def test_a_recording_is_looked_for_on_the_device_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of one GPU may be recorded while another is torch's current one."""
    current = [0]

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        current.append(wanted.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[-1] == 1)
    found = [autotune.is_capturing(torch.device(name)) for name in ("cuda:0", "cuda:1", "cpu")]
    assert found == [False, True, False]


class PretendedGpu:
    """A GPU's clock beside the host's, in milliseconds: work begins once it is queued and the GPU is free."""

    def __init__(self) -> None:
        self.host = self.free = 0.0

    def queue(self, milliseconds: float) -> None:
        self.free = max(self.host, self.free) + milliseconds

    def synchronize(self) -> None:
        self.host = max(self.host, self.free)

    def event(self, enable_timing: bool) -> PretendedGpu.Event:
        return PretendedGpu.Event(self)

    class Event:
        def __init__(self, gpu: PretendedGpu) -> None:
            self.gpu = gpu

        def record(self) -> None:
            self.gpu.queue(0)
            self.at = self.gpu.free

        def query(self) -> bool:
            return self.gpu.host >= self.at

        def elapsed_time(self, end: PretendedGpu.Event) -> float:
            return end.at - self.at


@pytest.mark.parametrize(("queuing", "seconds"), [(0.1, 0.003), (30.0, 0.003), (1000.0, 1.0003)])
def test_a_gpus_time_is_its_own_however_long_queuing_takes(
    monkeypatch: pytest.MonkeyPatch, queuing: float, seconds: float
) -> None:
    """Where queuing takes longer than is waited for, at most, it is a part of the time."""
    gpu = PretendedGpu()
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: gpu.queue(cycles / 2e6))

    def run() -> None:
        for _ in range(10):  # operations
            gpu.host += queuing / 10
            gpu.queue(0.3)

    assert autotune._time(run, torch.device("cuda")) == pytest.approx(seconds, rel=0.15)
