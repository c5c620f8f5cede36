"""Reads the published tables of trained networks: NAS-Bench-101, NAS-Bench-201 and NATS-Bench.

What is read are the files as their authors offer them for download, without their packages. They become the
columns of an npz file that `lasfast.ArchitectureTable` reads in a moment.
"""

from __future__ import annotations

import base64
import bz2
import json
import pickle
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

SETS = {
    "cifar10": (("cifar10-valid", "x-valid"), ("cifar10", "ori-test")),
    "cifar100": (("cifar100", "x-valid"), ("cifar100", "x-test")),
    "ImageNet16-120": (("ImageNet16-120", "x-valid"), ("ImageNet16-120", "x-test")),
}
"""The data sets of NAS-Bench-201: the training and evaluation sets of validation and test accuracies."""
VERTICES = 7  # of a cell of NAS-Bench-101, at most
OPERATIONS_101 = {"conv1x1-bn-relu": "conv1x1", "conv3x3-bn-relu": "conv3x3", "maxpool3x3": "maxpool3x3"}
PLAIN = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("builtins", "set"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}
"""The only names that a pickle of plain data needs; others may run anything."""


def read_published(path: Path, epochs: int | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a published table.

    - `.tfrecord`: NAS-Bench-101. `arch` has 21 edges (0 or 1, column after column of the adjacency matrix)
      and 5 operations; cells of fewer vertices have some without edges before the last. `valid` and `test`
      are [N, runs], `seconds` and `params` [N], `key` is the hash of the cell.
    - `.pth`: NAS-Bench-201. `.pickle.pbz2`, or a folder of such: NATS-Bench, of topologies or of sizes. The
      architecture has 6 operations, or 5 numbers of channels. `sets` names the data sets; `valid` and `test`
      are [N, sets, runs], `seconds`, `flops`, `params` and `latency` (seconds) [N, sets]. Of topologies,
      `key` is the function that the cell computes.

    Runs that were not made, and costs that are not known, are NaN.

    Args:
        path: the file or folder.
        epochs: how long the networks were trained; None takes the longest training.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of none of these formats, is damaged, or has no networks that were trained so
            long; it is named.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return _nas_bench_101(path, epochs) if path.suffix == ".tfrecord" else _nas_bench_201(path, epochs)
    except (KeyError, IndexError, TypeError, ValueError, EOFError, OSError, struct.error) as error:
        raise ValueError(f"{path} is no published table that lasfast reads: {error!r}") from error
    except (pickle.UnpicklingError, RuntimeError) as error:  # the latter of torch, for a damaged archive
        raise ValueError(f"{path} is not read: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of plain data."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that plain data need; raise UnpicklingError for any other."""
        if (module, name) not in PLAIN:
            raise pickle.UnpicklingError(
                f"it is no plain data but asks for {module}.{name}; NATS-Bench's files with 'simple' in "
                "their names have no weights"
            )
        return super().find_class(module, name)


def _unpickle(path: Path) -> Any:
    with bz2.BZ2File(path) as file:
        return _PlainUnpickler(file).load()


def _nas_bench_201(path: Path, epochs: int | None) -> dict[str, np.ndarray]:
    texts, rows = [], []
    for text, trainings in _trainings(path):
        made = {_epochs(one): one for one in trainings.values()}
        wanted = max(made) if epochs is None else epochs
        if wanted not in made:
            raise ValueError(f"epochs must be one of {', '.join(map(str, sorted(made)))}, got {wanted}")
        texts.append(_decisions(text))
        rows.append(_sets(made[wanted]))
    columns = {name: _stacked([row[name] for row in rows]) for name in rows[0]}
    if "_" in texts[0]:  # operations have names, channels are numbers
        columns["key"] = np.array([function_of(text) for text in texts])
    return {"arch": np.array(texts), "sets": np.array(list(SETS)), **columns}


def _trainings(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the text of each architecture, with its results by the kind of training."""
    if path.is_dir():
        texts = _unpickle(path / "meta.pickle.pbz2")["meta_archs"]
        for index, text in enumerate(texts):
            file = path / f"{index:06d}.pickle.pbz2"
            if file.exists():
                yield text, _unpickle(file)
        return
    whole = (
        torch.load(path, map_location="cpu", weights_only=True) if path.suffix == ".pth" else _unpickle(path)
    )
    for index, trainings in sorted(whole["arch2infos"].items()):
        yield whole["meta_archs"][index], trainings


def _epochs(training: Mapping[str, Any]) -> int:
    return int(next(iter(training["all_results"].values()))["epochs"])


def _decisions(text: str) -> str:
    """Return `op-op-...` of `|op~0|+|op~0|op~1|+...`, or the channels of `64:32:...`, joined alike."""
    return "-".join(re.findall(r"(\w+)~\d", text) or text.split(":"))


def _sets(training: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return an architecture's row: lists over the data sets, and over the runs in these."""
    row: dict[str, list[Any]] = defaultdict(list)
    for parts in SETS.values():
        for name, (trained_on, measured_on) in zip(("valid", "test"), parts, strict=True):
            row[name].append(
                [
                    run["eval_acc1es"].get(f"{measured_on}@{run['epochs'] - 1}", np.nan)
                    for run in _runs(training, trained_on)
                ]
            )
        runs = _runs(training, parts[0][0])
        times = [sum(run["train_times"].values()) for run in runs if run["train_times"]]
        latencies = [float(np.mean(run["latency"])) for run in runs if run["latency"]]
        row["seconds"].append(_mean(times))
        row["flops"].append(1e6 * _mean([run["flop"] for run in runs]))
        row["params"].append(1e6 * _mean([run["params"] for run in runs]))
        row["latency"].append(_mean([one for one in latencies if one > 0]))
    return row


def _runs(training: Mapping[str, Any], trained_on: str) -> list[Mapping[str, Any]]:
    """Return the trainings on a data set, by their seeds."""
    seeds = sorted(training["dataset_seed"].get(trained_on, []))
    return [training["all_results"][trained_on, seed] for seed in seeds]


def _mean(numbers: list[float]) -> float:
    return float(np.mean(numbers)) if numbers else float("nan")


def _stacked(rows: list[list[Any]]) -> np.ndarray:
    """Return lists over sets, or over sets and runs of any number, as one array with NaN at the ends."""
    if not isinstance(rows[0][0], list):
        return np.array(rows, dtype=np.float64)
    most = max(len(runs) for row in rows for runs in row)
    return np.array([[runs + [np.nan] * (most - len(runs)) for runs in row] for row in rows])


def function_of(text: str) -> str:
    """Return what a cell of NAS-Bench-201 computes, the same text for cells that compute the same.

    A node is the sum of its edges: `none` adds nothing, `skip_connect` the terms of the node that it comes
    from, and pooling nothing gives nothing. (A convolution of nothing gives what its batch norm adds.)

    Args:
        text: the six operations, joined by '-', node by node.
    """
    operations = iter(text.split("-"))
    nodes: list[list[str]] = [["x"]]  # the terms of each
    for _ in range(3):
        terms: list[str] = []
        for source, operation in zip(list(nodes), operations, strict=False):
            if operation == "skip_connect":
                terms += source
            elif operation != "none" and (source or operation != "avg_pool_3x3"):
                terms.append(f"{operation}({'+'.join(source)})")
        nodes.append(sorted(terms))
    return "+".join(nodes[-1])


def _nas_bench_101(path: Path, epochs: int | None) -> dict[str, np.ndarray]:
    cells: dict[str, str] = {}
    params: dict[str, int] = {}
    runs: dict[int, dict[str, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    with path.open("rb") as file:
        for record in _records(file):
            key, trained, adjacency, operations, metrics = json.loads(record)
            fields = _fields(base64.b64decode(metrics))
            last = _fields(fields[1][-1])  # evaluations: at the start, half-way and at the end
            runs[trained][key].append(tuple(struct.unpack("<d", last[field][0])[0] for field in (2, 4, 5)))
            cells[key] = _cell(adjacency, operations.split(","))
            params[key] = fields[2][0]
    wanted = max(runs, default=0) if epochs is None else epochs
    if wanted not in runs:
        raise ValueError(f"epochs must be one of {', '.join(map(str, sorted(runs)))}, got {wanted}")
    keys = list(runs[wanted])
    seconds, valid, test = (
        _stacked([[[run[part] for run in runs[wanted][key]]] for key in keys])[:, 0] for part in range(3)
    )
    return {
        "arch": np.array([cells[key] for key in keys]),
        "valid": valid,
        "test": test,
        "seconds": np.nanmean(seconds, axis=1),
        "params": np.array([params[key] for key in keys], dtype=np.float64),
        "key": np.array(keys),
    }


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Give the records of a TFRecord file; their checksums are passed over."""
    while head := file.read(12):
        (length,) = struct.unpack("<Q", head[:8])
        record = file.read(length)
        if len(record) < length or len(file.read(4)) < 4:
            raise ValueError("its last record is cut off")
        yield record


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Return the fields of a protocol buffer by number: ints of varints, bytes of all others."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            fields[tag >> 3].append(value)
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        fields[tag >> 3].append(message[at : at + size])
        at += size
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, and the place behind it."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _cell(adjacency: str, operations: list[str]) -> str:
    """Return a cell's decisions: the edges of a matrix of VERTICES rows, then the inner operations."""
    count = len(operations)
    matrix = np.zeros((VERTICES, VERTICES), dtype=int)
    places = [*range(count - 1), VERTICES - 1]  # the output stays the last vertex
    matrix[np.ix_(places, places)] = np.array([*map(int, adjacency)]).reshape(count, count)
    edges = [str(matrix[row, column]) for column in range(VERTICES) for row in range(column)]
    inner = [OPERATIONS_101[operation] for operation in operations[1:-1]]
    inner += [next(iter(OPERATIONS_101.values()))] * (VERTICES - count)
    return "-".join([*edges, *inner])
