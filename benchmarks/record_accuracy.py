"""Does training with lasfast's operators in bf16 end where PyTorch's in fp32 do? Three seeds of each.

    python -m benchmarks.record_accuracy --output benchmarks/results/accuracy.json

There are two tests: a NIR search of the digits (one-shot accuracy of its winner), and a network trained from
scratch on CIFAR-10 images (`--data imagefolder:PATH`). The record has the top-1 on the validation images, its
mean and its standard error over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

import lasfast
from benchmarks import _harness
from lasfast.evaluation.scoring import evaluate_network
from lasfast.train import StandaloneTrainer, SupernetTrainer, preset

WAYS = {
    "PyTorch fp32": {"operators": "torch", "precision": "fp32"},
    "native bf16": {"operators": "native", "precision": "bf16"},
}
SEEDS = range(3)


def main() -> None:
    """Train all; print and write their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="imagefolder:data/cifar10", help="of the stand-alone training")
    parser.add_argument("--epochs", type=int, default=8, help="of the stand-alone training")
    parser.add_argument("--output", help="where to write the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "record": "accuracy",
        "machine": _harness.machine(),
        "epochs": options.epochs,
        "top1": {"search": {}, "standalone": {}},
    }
    for way, operators in WAYS.items():
        record["top1"]["search"][way] = [search(seed, operators) for seed in SEEDS]
        record["top1"]["standalone"][way] = [
            standalone(options.data, options.epochs, seed, operators) for seed in SEEDS
        ]
        print(json.dumps({what: values[way] for what, values in record["top1"].items()}), flush=True)
    record["within"] = {what: within(values) for what, values in record["top1"].items()}
    print(record["within"])
    if options.output:
        _harness.write(record, options.output)


def search(seed: int, operators: dict[str, str]) -> float:
    """Return top-1 of the winner of a NIR search of the digits to depth 6, with inherited weights."""
    data = lasfast.data.load("digits", seed=seed)
    torch.manual_seed(seed)
    supernet = lasfast.supernets.ResidualNet(
        (4, 4, 4), num_classes=data.num_classes, in_channels=data.channels
    )
    trainer = SupernetTrainer(supernet, data.train, "small", seed=seed, **operators)
    backend = "native" if operators["operators"] == "native" else "torch"
    evaluator = lasfast.Evaluator(
        supernet,
        calibration=data.calibration,
        validation=data.validation,
        backend=backend,
        precision=operators["precision"],
    )
    with tempfile.TemporaryDirectory() as directory:
        searcher = lasfast.searchers.NIR(supernet.space, depth=6)
        study = lasfast.Study(searcher, evaluator, trainer=trainer, directory=Path(directory) / "run")
        return study.run().best.top1


def standalone(source: str, epochs: int, seed: int, operators: dict[str, str]) -> float:
    """Return top-1 of ResidualNet 3-3-3 after training from scratch on 6,000 images."""
    data = lasfast.data.load(source, limit=6000, validation=6000, calibration=1)
    torch.manual_seed(seed)
    supernet = lasfast.supernets.ResidualNet((3, 3, 3), num_classes=data.num_classes)
    network = supernet.extract((3, 3, 3), fresh=True)
    settings = preset("cifar100", standalone_epochs=epochs, seed=seed, **operators)
    for _ in StandaloneTrainer(network, data.train, settings).train():
        pass
    return evaluate_network(network, data.validation, (3, 3, 3), precision=operators["precision"]).top1


def within(values: dict[str, list[float]]) -> dict[str, float | bool]:
    """Return the difference of the means, and the standard error of that difference."""
    ours, theirs = values["native bf16"], values["PyTorch fp32"]
    difference = statistics.mean(ours) - statistics.mean(theirs)
    error = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / len(ours))
    return {"difference": difference, "standard_error": error, "within_one": abs(difference) <= error}


if __name__ == "__main__":
    main()
