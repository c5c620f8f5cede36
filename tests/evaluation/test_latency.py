"""Building and checking tables of latencies, with timers that are made up but for one run."""

import json
import math
import random

import pytest
import torch

from lasfast import supernets
from lasfast.costs import LatencyTable, path_params
from lasfast.engine.native_backend import why_missing
from lasfast.evaluation import latency
from lasfast.ir.layers import path_shapes
from lasfast.searchers.operators import sample_distinct
from lasfast.spaces import ChoiceSpace
from lasfast.supernets import LayerBuilder

MISSING = why_missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
SIZE = (8, 8)


@pytest.fixture(params=["torch", pytest.param("native", marks=needs_native)])
def backend(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def supernet() -> supernets.ResidualNet:
    return supernets.ResidualNet((3, 3, 3), 5, 1)


class Counted:
    """A timer that runs everything once; the first takes 1 ms, each other one more."""

    def __init__(self, stop=math.inf):
        self.calls, self.stop = 0, stop

    def __call__(self, run, before):
        if self.calls == self.stop:
            raise KeyboardInterrupt
        before()
        run()
        self.calls += 1
        return self.calls * 1e-3


def test_each_distinct_layer_is_timed_once(supernet, tmp_path, backend: str) -> None:
    told = []
    table = latency.build(
        supernet,
        SIZE,
        tmp_path / "t.json",
        backend=backend,
        timer=Counted(),
        progress=lambda *args: told.append(args),
    )
    # The stem; blocks of three widths; two that halve the image; the classifier.
    assert len(table.seconds) == 7
    assert [args[:2] for args in told] == [(done, 7) for done in range(1, 8)]
    assert told[-1][2].startswith("classifier on (64, 2, 2): ")
    assert LatencyTable.load(tmp_path / "t.json").seconds == table.seconds
    path = supernet.path((1, 1, 1))
    assert table(path, (1, *SIZE)) == pytest.approx(
        sum(
            table.seconds[latency.layer_key(layer, shapes[0])]
            for layer, shapes in path_shapes(path, (1, *SIZE))
        )
    )


def test_what_surrounds_a_layer_natively_is_taken_off(supernet) -> None:
    """In operations in place of seconds: the mean that makes features of an image is none of the layer's."""

    class Runner:
        native = True

        def __call__(self, path, shape):
            return sum(len(layer.ops) for layer in path)

    def alone(layer, shape):
        return latency._layer_seconds(Runner(), lambda run, _: run, lambda: None, layer, shape)

    stem, *_, classifier = supernet.path((1, 1, 1))
    assert alone(stem, (1, 8, 8)) == len(stem.ops)
    assert alone(classifier, (64, 2, 2)) == len(classifier.ops)


def test_goes_on_where_it_was_stopped(supernet, tmp_path) -> None:
    file = tmp_path / "t.json"
    with pytest.raises(KeyboardInterrupt):
        latency.build(supernet, SIZE, file, backend="torch", timer=Counted(stop=3))
    first = LatencyTable.load(file).seconds
    assert len(first) == 3
    timer = Counted()
    table = latency.build(supernet, SIZE, file, backend="torch", timer=timer)
    assert timer.calls == 4
    assert len(table.seconds) == 7
    assert first.items() <= table.seconds.items()
    again = Counted(stop=0)
    assert latency.build(supernet, SIZE, file, backend="torch", timer=again).seconds == table.seconds


def test_a_table_made_otherwise_is_refused(supernet, tmp_path) -> None:
    file = tmp_path / "t.json"
    latency.build(supernet, SIZE, file, backend="torch", timer=Counted())
    for change in ({"batch": 2}, {"precision": "bf16"}, {"name": "other"}):
        with pytest.raises(
            ValueError, match=rf"t\.json was made with {next(iter(change))} .* use another file"
        ):
            latency.build(supernet, SIZE, file, **{"backend": "torch", "timer": Counted(), **change})
    values = json.loads(file.read_text())
    values["machine"]["processor"] = "an abacus"
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="was made with processor 'an abacus', but here it is"):
        latency.build(supernet, SIZE, file, backend="torch", timer=Counted())
    with pytest.raises(ValueError, match="was made with processor 'an abacus'"):
        latency.check(supernet, SIZE, LatencyTable.load(file), timer=Counted())
    file.write_text("{")
    with pytest.raises(ValueError, match=r"t\.json is no table of latencies"):
        latency.build(supernet, SIZE, file, backend="torch", timer=Counted())


class Own(supernets.ResidualNet):
    """Has a module of the user's own, and a layer that reads features."""

    def head_layers(self) -> supernets.Path:
        self.add_opaque("own.module", torch.nn.Conv2d(64, 64, 1))
        own, mean, last = (LayerBuilder(name, 64) for name in ("own", "mean", "last"))
        own.opaque("module", own.input, 64, params=64 * 65)
        mean.global_avg_pool(mean.input)
        last.linear("fc", last.input, 5)
        return own.build(), mean.build(), last.build()


def test_every_kind_of_layer_can_be_timed(tmp_path, backend: str) -> None:
    table = latency.build(
        Own((1, 1, 1), 5, 1), SIZE, tmp_path / "t.json", backend=backend, timer=Counted(), batch=2
    )
    assert any(key.startswith("64: Linear") for key in table.seconds)
    assert any("Opaque(module=own.module" in key for key in table.seconds)


class Widths(supernets.ChoiceSupernet):
    """Layers of several widths, so that what each reads depends on the one before."""

    def stem(self):
        return (), self.in_channels

    def choice(self, index, taken, channels):
        [width] = taken
        if not width:
            return (), channels
        layer = LayerBuilder(f"layers.{index}", channels)
        layer.conv_bn_act("", layer.input, width, 3)
        return (layer.build(),), width

    def head(self, channels):
        layer = LayerBuilder("classifier", channels)
        layer.linear("fc", layer.global_avg_pool(layer.input), 5)
        return (layer.build(),)


def test_layers_of_any_space_are_found() -> None:
    supernet = Widths(ChoiceSpace([[0, 2, 4], [0, 2, 6], [2, 4, 8]]), num_classes=5, in_channels=1)
    every = {
        latency.layer_key(layer, shapes[0])
        for architecture in supernet.space.enumerate()
        for layer, shapes in path_shapes(supernet.path(architecture), (1, *SIZE))
    }
    assert set(latency.distinct_layers(supernet, SIZE)) == every
    assert len(every) > 15


def test_a_check_compares_sums_with_whole_networks(supernet, tmp_path) -> None:
    """Whole networks that take 2 ms more than thrice their layers, each slow in its first turn."""
    table = latency.build(supernet, SIZE, tmp_path / "t.json", backend="torch", timer=Counted())
    rounds = []

    class Whole:
        def __call__(self, run, before):
            run()
            path = paths[len(rounds) % len(paths)]
            rounds.append(path)
            slow = 5.0 if len(rounds) <= len(paths) else 0.0
            return 2e-3 + 3 * table.sum(path, (1, *SIZE)) + slow

    chosen = sample_distinct(supernet.space, random.Random(4), 12, lambda _: True)
    paths = [supernet.path(one) for one in chosen]
    result = latency.check(supernet, SIZE, table, architectures=12, fitted=5, rounds=2, seed=4, timer=Whole())
    assert len(rounds) == 24
    assert result.architectures == chosen
    assert len(set(chosen)) == 12
    assert (result.overhead, result.scale) == (pytest.approx(2e-3), pytest.approx(3))
    assert result.of_fit().error == pytest.approx(0, abs=1e-9)
    assert 0.6 < result.of_sum().error < 0.7
    assert result.of_sum_held_out().tau == result.of_fit().rho == pytest.approx(1)


def test_a_small_space_is_checked_whole(tmp_path) -> None:
    supernet = supernets.ResidualNet((1, 2, 2), 5, 1)
    table = latency.build(supernet, SIZE, tmp_path / "t.json", backend="torch", timer=Counted())
    with pytest.raises(ValueError, match="fitted must be 2 to 2 of 4 architectures, got 3"):
        latency.check(supernet, SIZE, table, fitted=3)
    result = latency.check(supernet, SIZE, table, fitted=2, timer=lambda run, before: 1.0)
    assert sorted(result.architectures) == list(supernet.space.enumerate())
    assert math.isnan(result.of_sum().tau)


def test_a_real_run_predicts_within_reason(supernet, tmp_path, backend: str) -> None:
    timer = latency.least_seconds(0.0, runs=3)
    table = latency.build(supernet, SIZE, tmp_path / "t.json", backend=backend, timer=timer)
    assert all(0 <= seconds < 1 for seconds in table.seconds.values())
    result = latency.check(supernet, SIZE, table, architectures=6, fitted=3, rounds=1, timer=timer)
    assert all(0 < seconds < 1 for seconds in result.measured)
    # Machines are busy: this finds wrong units and what is timed twice, not a slow moment.
    assert 0.02 < sum(result.predicted) / sum(result.measured) < 50


def test_the_least_of_the_runs_counts(monkeypatch) -> None:
    clock = [0.0]
    durations = iter([9.0, 3.0, 0.5, 2.0])  # the first is to warm up

    def run() -> None:
        clock[0] += next(durations)

    def before() -> None:
        clock[0] += 0.1

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert latency.least_seconds(0.0, runs=3)(run, before) == pytest.approx(0.5)
    assert next(durations, None) is None


def test_the_weights_of_the_others_are_read_between_runs(supernet, tmp_path, monkeypatch) -> None:
    read = []
    original = torch.Tensor.sum
    monkeypatch.setattr(torch.Tensor, "sum", lambda self: read.append(self.numel()) or original(self))
    latency.build(supernet, SIZE, tmp_path / "t.json", backend="torch", timer=Counted())
    sizes = [path_params(supernet.path(one)) for one in supernet.space.enumerate()]
    assert len(read) == 7
    assert len(set(read)) == 1
    assert min(sizes) < read[0] < max(sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "auto"}, "backend must be one of 'native', 'torch', got 'auto'"),
        ({"precision": "fp16"}, "precision must be one of"),
        ({"batch": 0}, "batch must be a positive int"),
        ({"name": "a@b"}, "name must be one such as 'cpu'"),
    ],
)
def test_bad_arguments_are_named(supernet, tmp_path, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latency.build(supernet, SIZE, tmp_path / "t.json", **change)


def test_without_the_compiled_module_it_says_so(supernet, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lasfast.runtime.compiled._C", None)
    with pytest.raises(ValueError, match=r"backend 'native' cannot be timed: .*missing"):
        latency.build(supernet, SIZE, tmp_path / "t.json")
