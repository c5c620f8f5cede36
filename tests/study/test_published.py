"""Published tables, in small files of their formats that the tests write."""

from __future__ import annotations

import base64
import bz2
import itertools
import json
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from lasfast.measurements import ArchitectureTable, Schema, TabularEvaluator
from lasfast.searchers import LocalSearch
from lasfast.study.published import function_of, read_published

CELLS = [
    "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|",
    "|none~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|",
    "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|",
]
EVALUATIONS = {
    "cifar10-valid": ["x-valid", "ori-test"],
    "cifar10": ["ori-test"],
    "cifar100": ["x-valid", "x-test", "ori-test"],
    "ImageNet16-120": ["x-valid", "x-test", "ori-test"],
}


def training(index: int, text: str, epochs: int, seeds: tuple[int, ...]) -> dict:
    """Results as `ArchResults.state_dict` has them; accuracies are 10 * cell + data set + epoch / 10."""
    results = {}
    for place, (trained_on, measured_on) in enumerate(EVALUATIONS.items()):
        for seed in seeds:
            results[trained_on, seed] = {
                "name": "infer.tiny",
                "net_state_dict": None,
                "train_acc1es": dict.fromkeys(range(epochs), 1.0),
                "train_times": OrderedDict((epoch, 2.0 + index) for epoch in range(epochs)),
                "arch_config": {"arch_str": text},
                "params": 0.5 + index,
                "flop": 20.0 + index,
                "seed": seed,
                "epochs": epochs,
                "latency": [0.01, 0.03] if index else None,
                "eval_names": measured_on,
                "eval_acc1es": {
                    f"{name}@{epoch}": np.float64(10 * index + place + epoch / 10 + (seed > 777) / 100)
                    for name in measured_on
                    for epoch in range(epochs)
                },
            }
    return {
        "arch_index": index,
        "arch_str": text,
        "all_results": results,
        "dataset_seed": {name: list(seeds) for name in EVALUATIONS},
        "clear_net_done": True,
    }


def benchmark(cells: list[str], kinds: dict[str, int]) -> dict:
    return {
        "meta_archs": cells,
        "evaluated_indexes": list(range(len(cells))),
        "arch2infos": {
            index: {
                kind: training(index, text, epochs, (777, 888) if index else (777,))
                for kind, epochs in kinds.items()
            }
            for index, text in enumerate(cells)
        },
    }


def write_pickle(path: Path, content: object) -> Path:
    path.write_bytes(bz2.compress(pickle.dumps(content, protocol=4)))
    return path


def check_201(columns: dict[str, np.ndarray]) -> None:
    assert columns["arch"][0] == "nor_conv_3x3-none-skip_connect-skip_connect-none-avg_pool_3x3"
    assert columns["sets"].tolist() == ["cifar10", "cifar100", "ImageNet16-120"]
    assert columns["valid"].shape == columns["test"].shape == (3, 3, 2)
    assert columns["valid"][1, 1] == pytest.approx([12.3, 12.31])
    assert columns["test"][2] == pytest.approx(np.array([[21.3, 21.31], [22.3, 22.31], [23.3, 23.31]]))
    assert np.isnan(columns["valid"][0, :, 1]).all()
    assert columns["seconds"][1].tolist() == [12.0] * 3
    assert columns["flops"][2, 0] == 22e6
    assert columns["params"][2, 0] == 2.5e6
    assert columns["latency"][1].tolist() == [0.02] * 3
    assert np.isnan(columns["latency"][0]).all()
    assert columns["key"][0] == columns["key"][1] != columns["key"][2]


def test_nas_bench_201_and_nats_bench(tmp_path: Path) -> None:
    whole = benchmark(CELLS, {"12": 2, "200": 4})
    torch.save(_plain(benchmark(CELLS, {"less": 2, "full": 4})), tmp_path / "nb201.pth")
    check_201(read_published(tmp_path / "nb201.pth"))
    check_201(read_published(write_pickle(tmp_path / "nats.pickle.pbz2", whole)))
    folder = tmp_path / "NATS-tss-simple"
    folder.mkdir()
    write_pickle(folder / "meta.pickle.pbz2", {"meta_archs": CELLS})
    for index, trainings in whole["arch2infos"].items():
        write_pickle(folder / f"{index:06d}.pickle.pbz2", trainings)
    check_201(read_published(folder))
    assert read_published(folder, epochs=2)["valid"][1, 1, 0] == pytest.approx(12.1)
    with pytest.raises(ValueError, match="epochs must be one of 2, 4, got 3"):
        read_published(folder, epochs=3)


def _plain(content: object) -> object:
    """Return the content with Python's numbers, as NAS-Bench-201 has them."""
    if isinstance(content, dict):
        return {key: _plain(one) for key, one in content.items()}
    return float(content) if isinstance(content, np.floating) else content


def test_what_was_read_is_searched(tmp_path: Path) -> None:
    columns = read_published(write_pickle(tmp_path / "nats.pickle.pbz2", benchmark(CELLS, {"12": 2})))
    np.savez_compressed(tmp_path / "nats.npz", **columns)
    schema = Schema(
        "arch", "valid[cifar100]", ("flops=flops[cifar100]",), "test[cifar100]", "seconds[cifar100]", "key"
    )
    table = ArchitectureTable.load(tmp_path / "nats.npz", schema)
    searcher = LocalSearch(table.space(), evaluations=9)
    evaluator = TabularEvaluator(table, training_cost="seconds")
    while candidates := searcher.ask():
        for measurement in evaluator(candidates):
            searcher.tell(measurement.architecture, measurement)
    assert len(searcher.results) == 2, "two of the three compute the same"
    assert searcher.best == (table.architectures[2], pytest.approx(0.22105))


def test_sizes_of_nats_bench(tmp_path: Path) -> None:
    sizes = ["64:32:16:8:64", "8:8:8:8:8"]
    columns = read_published(write_pickle(tmp_path / "sss.pickle.pbz2", benchmark(sizes, {"90": 2})))
    assert columns["arch"].tolist() == ["64-32-16-8-64", "8-8-8-8-8"]
    assert "key" not in columns


def test_cells_that_compute_the_same_have_the_same_function() -> None:
    operations = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
    assert function_of("none-none-none-none-none-none") == ""
    assert function_of("skip_connect-none-skip_connect-none-none-skip_connect") == "x"
    assert function_of("none-none-none-none-none-nor_conv_1x1") == "nor_conv_1x1()"
    first, second = (
        function_of("nor_conv_3x3-avg_pool_3x3-none-none-skip_connect-nor_conv_1x1"),
        function_of("avg_pool_3x3-nor_conv_3x3-none-none-nor_conv_1x1-skip_connect"),
    )
    assert first == second, "the two middle nodes are exchanged"
    every = {function_of("-".join(one)) for one in itertools.product(operations, repeat=6)}
    assert 4000 < len(every) < 15625 / 2


def varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def metrics(seconds: float, valid: float, test: float, params: int) -> str:
    """A `ModelMetrics` message with three evaluations, of which the last counts."""
    message = b""
    for share in (0.0, 0.5, 1.0):
        values = [108.0 * share, seconds * share, 0.99, valid * share, test * share]
        evaluation = b"".join(
            varint(field << 3 | 1) + struct.pack("<d", value) for field, value in enumerate(values, start=1)
        )
        evaluation += varint(6 << 3 | 2) + varint(4) + b"ckpt"
        message += varint(1 << 3 | 2) + varint(len(evaluation)) + evaluation
    message += varint(2 << 3 | 0) + varint(params) + varint(3 << 3 | 1) + struct.pack("<d", 1.0)
    return base64.b64encode(message).decode()


def write_101(path: Path) -> Path:
    """Two cells: one of three vertices with two runs, one of seven with one; and a shorter training."""
    edges = "0110010000010000001000000100000010000001000000000"  # 7 x 7
    inner = "conv1x1-bn-relu,conv3x3-bn-relu,maxpool3x3,conv3x3-bn-relu,conv1x1-bn-relu"
    rows = [
        ["aa", 108, "010001000", "input,maxpool3x3,output", metrics(900.0, 0.91, 0.90, 300)],
        ["aa", 108, "010001000", "input,maxpool3x3,output", metrics(1100.0, 0.93, 0.92, 300)],
        ["bb", 108, edges, f"input,{inner},output", metrics(2000.0, 0.94, 0.935, 8_000_000)],
        ["bb", 4, edges, f"input,{inner},output", metrics(20.0, 0.5, 0.5, 8_000_000)],
    ]
    records = [json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(struct.pack("<Q", len(one)) + b"sum1" + one + b"sum2" for one in records))
    return path


def test_nas_bench_101(tmp_path: Path) -> None:
    columns = read_published(write_101(tmp_path / "nasbench.tfrecord"))
    assert columns["key"].tolist() == ["aa", "bb"]
    assert columns["valid"][0].tolist() == [0.91, 0.93]
    assert columns["test"][1, 0] == 0.935
    assert np.isnan(columns["valid"][1, 1])
    assert columns["seconds"].tolist() == [1000.0, 2000.0]
    assert columns["params"].tolist() == [300, 8e6]
    small, large = (text.split("-") for text in columns["arch"])
    assert small[:21] == ["1", *"00", *"000", *"0000", *"00000", *"010000"]
    assert small[21:] == ["maxpool3x3", *["conv1x1"] * 4]
    assert large[21:] == ["conv1x1", "conv3x3", "maxpool3x3", "conv3x3", "conv1x1"]
    assert read_published(tmp_path / "nasbench.tfrecord", epochs=4)["valid"].tolist() == [[0.5]]


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_what_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        read_published(tmp_path / "nothing")
    with pytest.raises(
        ValueError, match=r"a\.pickle\.pbz2 is not read: it is no plain data .* builtins.print"
    ):
        read_published(write_pickle(tmp_path / "a.pickle.pbz2", {"meta_archs": [Harmful()]}))
    assert capsys.readouterr().out == ""
    torch.save({"meta_archs": [Harmful()]}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth is not read"):
        read_published(tmp_path / "a.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut\.pth is not read"):
        read_published(tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"b\.pickle\.pbz2 is no published table .*arch2infos"):
        read_published(write_pickle(tmp_path / "b.pickle.pbz2", {}))
    path = write_101(tmp_path / "cut.tfrecord")
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match="its last record is cut off"):
        read_published(path)
