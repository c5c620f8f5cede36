"""Record how near evaluation and training come to what the machine can do: time over the roof, by kind.

    python -m benchmarks.record_roofline evaluation benchmarks/results/roofline-bf16.json [WORKLOADS]
    python -m benchmarks.record_roofline training benchmarks/results/roofline-bf16.json [WORKLOADS]
    python -m benchmarks.record_roofline evaluation NAME.json --isa avx512_bf16 --images 60 --rounds 1
    python -m benchmarks.record_roofline evaluation NAME.json --precision fp32 --images 60 --rounds 1

The roof of an operation is the longer of two times: its multiply-adds at the rate of a large product, in the
precision or in fp32 (in which values of bf16 can be multiplied as well, on some processors faster), and its
bytes, read and written once, at the bandwidth that a copy has in the level of cache that the working set
fits. The working set is the arena of a block of images in prediction, all values of the batch in calibration,
and what an operation reads and writes in training. One thread; random images. What the record holds of the
machine and of other workloads stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer

from benchmarks import _harness, _operation_times, _roof, _step_times, bench_evaluate, bench_train
from lasfast.engine import NativeBackend
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import compiled

app = typer.Typer(help=__doc__, no_args_is_help=True)
MOST_OF_PYTORCH = {"avx512_bf16": "AVX512_CORE_BF16"}
"""The most that PyTorch's kernels may use of a processor, by an instruction set of lasfast's."""
Measure = Callable[[str, _roof.Machine], dict[str, Any]]


@app.command()
def evaluation(
    path: Path,
    workloads: Annotated[list[str] | None, typer.Argument()] = None,
    precision: str = "bf16",
    isa: str = "amx",
    images: int = 250,
    calibration: int = bench_evaluate.CALIBRATION_BATCH,
    rounds: Annotated[int, typer.Option(help="of the batch of calibration")] = 3,
) -> None:
    """Time the operations of calibration and prediction, scaled to the workload's numbers of images."""

    def measured(name: str, machine: _roof.Machine) -> dict[str, Any]:
        return measure_evaluation(name, machine, precision, images, calibration, rounds)

    _record("evaluation", path, workloads or list(bench_evaluate.WORKLOADS), precision, isa, measured)


@app.command()
def training(
    path: Path,
    workloads: Annotated[list[str] | None, typer.Argument()] = None,
    precision: str = "bf16",
    isa: str = "amx",
    steps: int = 2,
) -> None:
    """Time the operations of a training step, the paths of a batch one after another."""

    def measured(name: str, machine: _roof.Machine) -> dict[str, Any]:
        return measure_training(name, machine, precision, steps)

    _record("training", path, workloads or list(bench_train.WORKLOADS), precision, isa, measured)


def _record(part: str, path: Path, workloads: list[str], precision: str, isa: str, measured: Measure) -> None:
    """Measure workloads, and write the record after each."""
    os.environ["LASFAST_ISA"] = isa
    if isa in MOST_OF_PYTORCH:  # PyTorch reads it when it first computes
        os.environ["ONEDNN_MAX_CPU_ISA"] = MOST_OF_PYTORCH[isa]
    torch.set_num_threads(1)
    compiled.isa()  # raises ValueError where there is no such
    record = _begun(path, precision, isa)
    machine = _roof.Machine.from_json(record["limits"])
    for name in workloads:
        one = record[part][name] = measured(name, machine)
        typer.echo(f"{name}: {one['seconds']:.3f} s, {100 * one['of roof']:.0f} % of the roof")
        _harness.write(record, path)


def _begun(path: Path, precision: str, isa: str) -> dict[str, Any]:
    """Return the record at this path to go on with, or else a new one."""
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (record["precision"], record["isa"]) != (precision, isa):
            raise typer.BadParameter(f"path must be a record of {precision}, {isa} or of none, got {path}")
        return record
    machine = _harness.machine()
    limits = _roof.measure(precision).as_json()
    head = {"record": "roofline", "precision": precision, "isa": isa, "machine": machine, "limits": limits}
    return {**head, "evaluation": {}, "training": {}}


def measure_evaluation(
    name: str, machine: _roof.Machine, precision: str, images: int, calibration: int, rounds: int
) -> dict[str, Any]:
    """Return the sums of an evaluation of all candidates of a workload."""
    torch.manual_seed(0)
    workload = bench_evaluate.WORKLOADS[name]
    supernet = workload.make()
    bench_evaluate.shake(supernet)
    candidates = list(workload.candidates(supernet.space))
    tree = PrefixTree([supernet.path(candidate) for candidate in candidates])
    size = bench_evaluate.IMAGE_SIZE
    batch, validation = torch.randn(calibration + images, 3, size, size).split([calibration, images])
    counts = workload.calibration, workload.validation
    backend = NativeBackend(supernet, precision)
    found = _operation_times.measure(backend, tree, machine, batch, validation, counts, rounds)
    preparing = found.pop("preparing_seconds")
    seconds = preparing + sum(one["whole_seconds"] for one in found.values())
    passes = {which: {**one, "kinds": _roof.as_json(one["kinds"])} for which, one in found.items()}
    kinds = [kind for one in found.values() for kind in one["kinds"].values()]
    head = {"candidates": len(candidates), "images": counts, "preparing_seconds": preparing}
    return {**head, **totals(kinds, seconds), "passes": passes}


def measure_training(name: str, machine: _roof.Machine, precision: str, steps: int) -> dict[str, Any]:
    """Return the sums of a training step of a workload."""
    torch.manual_seed(0)
    workload = bench_train.WORKLOADS[name]
    supernet = workload.make().train()
    images = bench_train.load_images(SimpleNamespace(data=None, device="cpu"), workload)

    def trainer() -> Callable[[], None]:
        run: Callable[[], None] = bench_train.ours(workload, supernet, images, precision, "sequential", 1)
        return run

    found = _step_times.measure(trainer, machine, steps)
    head = {"batch": bench_train.BATCH, "steps": steps}
    kinds = found["kinds"]
    return {**head, **totals(kinds.values(), found["whole_seconds"]), "kinds": _roof.as_json(kinds)}


def totals(kinds: Any, seconds: float) -> dict[str, float]:
    """Return what all operations would take at their roofs, and as which part of the time that is."""
    kinds = list(kinds)
    sums = {name: sum(getattr(one, name) for one in kinds) for name in vars(_roof.Sum())}
    return {
        "seconds": seconds,
        "roof_seconds": sums["roof"],
        "of roof": sums["roof"] / seconds,
        "of own roof": sums["own_roof"] / seconds,
        "of precision's roof": sums["precision_roof"] / seconds,
        "outside of operations": max(0.0, 1 - sums["seconds"] / seconds),
    }


if __name__ == "__main__":
    app()
