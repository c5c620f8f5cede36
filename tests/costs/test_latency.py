"""Latencies as a cost, from a table that is written by hand."""

import dataclasses
import json

import pytest

from lasfast import costs, supernets
from lasfast.constraints import Constraint
from lasfast.costs.latency import LatencyTable, layer_key
from lasfast.ir.layers import path_shapes
from lasfast.searchers import Evolution
from lasfast.supernets import LayerBuilder

NET = supernets.ResidualNet((3, 3, 3))
SETTINGS = {"backend": "native", "precision": "fp32", "batch": 1, "threads": 1, "device": "cpu"}


def table(**changes):
    """Return a table with a millisecond for each layer of the network."""
    layers = path_shapes(NET.path((3, 3, 3)), (3, 32, 32))
    seconds = {layer_key(layer, shapes[0]): 1e-3 for layer, shapes in layers}
    return LatencyTable(**{"name": "cpu", "settings": SETTINGS, "machine": {}, "seconds": seconds, **changes})


def test_a_network_takes_as_long_as_its_layers():
    assert table()(NET.path((1, 2, 3)), (3, 32, 32)) == pytest.approx(8e-3)  # a stem, 6 layers, a classifier
    fitted = table(overhead=5e-3, scale=2.0)
    assert fitted(NET.path((1, 2, 3)), (3, 32, 32)) == pytest.approx(21e-3)
    assert fitted.sum(NET.path((1, 2, 3)), (3, 32, 32)) == pytest.approx(8e-3)


def test_names_do_not_matter_and_all_else_does():
    def block(name="a", width=8, stride=1, opaque=None):
        builder = LayerBuilder(name, 8)
        y = builder.conv_bn_act("", builder.input, width, 3, stride)
        if opaque:
            builder.opaque(opaque, y, width)
        return builder.build()

    shape = (8, 16, 16)
    assert layer_key(block("a"), shape) == layer_key(block("b"), shape)
    others = [
        layer_key(block(), (8, 16, 15)),
        layer_key(block(width=6), shape),
        layer_key(block(stride=2), shape),
        layer_key(block(opaque="x"), shape),
        layer_key(block(opaque="y"), shape),
    ]
    assert len({layer_key(block(), shape), *others}) == 6


def test_a_layer_that_was_not_timed_is_named_with_the_command():
    with pytest.raises(
        ValueError, match=r"latency@cpu: layer 'stem' on a value of shape \(3, 16, 16\) was not"
    ):
        table()(NET.path((1, 1, 1)), (3, 16, 16))
    with pytest.raises(
        ValueError, match=r"lasfast latency build --table here\.json --backend native --batch 1`"
    ):
        table(path="here.json")(NET.path((1, 1, 1)), (3, 16, 16))


def test_constraints_bound_latencies():
    known = costs.functions(NET, (32, 32), [table()])
    constraint = Constraint("latency<=7ms@cpu,flops<=1G", known)
    assert constraint((2, 2, 1))
    assert not constraint((2, 2, 2))
    searcher = Evolution(NET.space, constraint=constraint, population=8, generations=2)
    while candidates := searcher.ask():
        for candidate in candidates:
            searcher.tell(candidate, sum(candidate))
    assert sum(searcher.best[0]) == 5
    with pytest.raises(
        ValueError, match="the cost must be one of flops, params, bitops, memory, latency@cpu"
    ):
        Constraint("latency<=7ms@gpu", known)
    with pytest.raises(ValueError, match="the cost must be one of flops"):
        Constraint("latency<=7ms@cpu", costs.functions(NET, (32, 32)))


def test_a_table_is_read_as_it_was_written(tmp_path):
    written = table(path=tmp_path / "t.json", machine={"processor": "x", "isa": ["a"]}, overhead=-1e-3)
    written.save()
    assert LatencyTable.load(tmp_path / "t.json") == written


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seconds": {"a": "fast"}}, "a must be a real number"),
        ({"seconds": {"a": -1.0}}, "a must not be negative"),
        ({"seconds": [1.0]}, ""),
        ({"scale": None}, "scale must be a real number"),
        ({"settings": {}}, "its name or its settings are missing"),
        ({"more": 1}, "more"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, change, problem):
    values = {name: value for name, value in dataclasses.asdict(table()).items() if name != "path"}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=rf"t\.json is no table of latencies \(.*{problem}.*; restore it"):
        LatencyTable.load(path)
    path.write_text(json.dumps(values)[:-20])
    with pytest.raises(ValueError, match=r"t\.json is no table of latencies"):
        LatencyTable.load(path)
    with pytest.raises(FileNotFoundError):
        LatencyTable.load(tmp_path / "none.json")
