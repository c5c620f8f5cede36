"""`lasfast latency` on the command line, and a search within a latency."""

import json
import re

import pytest
import torch

from lasfast.costs import LatencyTable
from lasfast.engine.native_backend import why_missing

MISSING = why_missing(torch.device("cpu"))


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_build_check_and_search(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    file = tmp_path / "t.json"
    digits = ("--image-size", 8, "--channels", 1, "--max-layers", 2, "--table", file, "--seconds", 0)
    status, out, err = lasfast("latency", "build", *digits)
    assert (status, err) == (0, "")
    assert "7 layers to time, in 0:00 or more" in out
    assert "7/7  classifier on (64, 2, 2): " in out
    assert "7 layers, for latency@cpu" in out
    few = ("--architectures", 6, "--fitted", 3, "--rounds", 1)
    status, out, err = lasfast("latency", "check", *digits, *few)
    assert (status, err) == (0, "")
    assert re.search(r"sum of layers +6 +\d+\.\d % +-?\d\.\d\d +-?\d\.\d\d", out)
    assert re.search(r"ms \+ -?\d+\.\d+ \* sum +3 ", out)
    assert LatencyTable.load(file).scale == 1
    table = LatencyTable.load(file)
    table.seconds = dict.fromkeys(table.seconds, 1e-3)
    table.save()
    quick = ["--warm-up-epochs", 1, "--epochs-per-step", 1, "--max-layers", 2, "--limit", 50, "-q"]
    search = ("search", "random", "--samples", 1, *quick, "--latency-table", file, "-o", tmp_path / "run")
    status, _, err = lasfast(*search, "--depth", 5, "--constraint", "latency<=6ms@cpu")
    assert status == 2
    assert "none that meets it was found" in err  # five layers, the stem and the classifier: 7 ms
    shown = [*search[: search.index("-q")], *search[search.index("-q") + 1 :]]
    status, out, err = lasfast(*shown, "--depth", 4, "--constraint", "latency<=6ms@cpu")
    assert (status, err) == (0, "")
    assert re.search(r"assignment +top-1 +MFLOPs +params +latency@cpu \(ms\)", out)
    assert re.search(r"best: \S+  top-1 .* params  6\.00 ms \(latency@cpu\), with inherited weights\n", out)
    timed = re.search(
        r"latency@cpu: 6\.00 ms by the table, (\d+\.\d\d) ms measured whole; the table is ", out
    )
    assert float(timed[1]) > 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best"]["latency@cpu"] == pytest.approx(6e-3)
    assert re.search(r"MFLOPs +params +latency@cpu \(ms\)", lasfast("report", tmp_path / "run")[1])
    status, _, err = lasfast(*search, "--depth", 4, "--constraint", "latency<=6ms@gpu")
    assert status == 2
    assert "memory, latency@cpu" in err


def test_the_fit_is_kept_where_asked(lasfast, tmp_path, monkeypatch) -> None:
    """Networks that take twice the sum of their layers."""
    file = tmp_path / "t.json"
    same = ("--image-size", 8, "--max-layers", 3, "--table", file)
    seconds = iter(range(1, 8))
    monkeypatch.setattr(
        "lasfast.evaluation.latency.least_seconds", lambda _: lambda run, before: next(seconds) * 1e-3
    )
    status, _, err = lasfast("latency", "build", "--backend", "torch", *same)
    assert (status, err) == (0, "")
    sums = []
    original = LatencyTable.sum

    def add(self, *arguments):
        sums.append(original(self, *arguments))
        return sums[-1]

    monkeypatch.setattr(LatencyTable, "sum", add)
    monkeypatch.setattr(
        "lasfast.evaluation.latency.least_seconds", lambda _: lambda run, before: 2 * sums.pop(0)
    )
    few = ("--architectures", 8, "--fitted", 4, "--rounds", 1)
    status, out, err = lasfast("latency", "check", *same, *few, "--keep-fit")
    assert (status, err) == (0, "")
    assert "the fit is written to" in out
    table = LatencyTable.load(file)
    assert table.scale == pytest.approx(2)
    assert table.overhead == pytest.approx(0, abs=1e-9)


def test_a_supernet_of_choices_is_timed_and_searched(lasfast, tmp_path, monkeypatch) -> None:
    file = tmp_path / "t.json"
    monkeypatch.setattr("lasfast.evaluation.latency.least_seconds", lambda _: lambda run, before: 1e-3)
    small = ("--supernet", "shufflenet-v2", "--width", 0.25)
    digits = ("--image-size", 8, "--channels", 1, "--table", file, "--backend", "torch")
    status, out, err = lasfast("latency", "build", *small, *digits)
    assert (status, err) == (0, "")
    assert "for latency@cpu" in out
    search = ("search", "evolution", *small, "--limit", 50, "--latency-table", file, "-o", tmp_path / "run")
    status, _, err = lasfast(*search, "--constraint", "latency<=1ms@cpu")
    assert status == 2
    assert "none that meets it was found" in err  # 20 blocks take 20 ms
    status, _, err = lasfast(*search, "--width", 0.5, "--constraint", "latency<=1ms@cpu")
    assert status == 2
    assert "lasfast latency build" in err
