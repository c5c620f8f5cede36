"""Calibration and prediction of many candidates: the native backend against PyTorch, one at a time.

    python -m benchmarks.bench_evaluate                          # every workload, random images
    python -m benchmarks.bench_evaluate nir-plain --precision fp32 --data imagefolder:data/cifar10
    python -m benchmarks.bench_evaluate --quick                  # a tenth of the images, two rounds
    python -m benchmarks.bench_evaluate --profile ofa            # images and statistics of published code

The baselines run the extracted networks in inference mode, with images already in memory (the GPU's, with
`--device cuda`). `sequential` is eager in fp32 on contiguous images. `tuned` is channels_last in the same
precision as ours (bf16 by autocast), with the fastest batch size for prediction, on a GPU as CUDA graphs, and
compiled if that is tried (`--compiled`) and faster; the time of compiling and recording is kept separately.
`torch` is lasfast's own torch backend, which shares prefixes, too. `--ways` adds runs of the native backend
that predict in the ways of that name, where it offers them, else as it does without. On a GPU, all of them
multiply fp32 as `--fp32-products` says, except what errors are measured against, which is always exact.

Calibration batches are the same for all, since other batches would give other statistics. Before anything is
timed, the logits of eight candidates are compared. `sequential`, the slowest, runs in the first round only.
"""

import argparse
import itertools
import json
import os
import random
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

import lasfast
from benchmarks import _harness, _networks
from benchmarks._tuned import MODES, best_batch, check, one_by_one, tune
from lasfast import supernets
from lasfast.costs.flops import op_flops
from lasfast.engine import NativeBackend, cuda_executor
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime.precision import fp32_products, fp32_products_as

CALIBRATION_BATCH = 125
IMAGE_SIZE = 32


@dataclass(frozen=True)
class Workload:
    """A supernet, the candidates of one step of its search, and the numbers of images."""

    make: object
    candidates: object
    calibration: int
    validation: int


WORKLOADS = {
    "nir-residual": Workload(
        lambda: supernets.ResidualNet((6, 6, 6)), lambda space: space.inherit((3, 4, 5)), 1000, 10_000
    ),
    "nir-plain": Workload(
        lambda: supernets.PlainNet((4, 4, 4)), lambda space: space.inherit((3, 3, 2)), 1000, 2000
    ),
    "assignments-15": Workload(
        lambda: supernets.ResidualNet((13, 13, 13)), lambda space: list(space.enumerate(depth=15)), 1000, 1000
    ),
    "spos-channels": Workload(_networks.ChannelNet, lambda s: _networks.generation(s, 50), 2000, 2000),
    "layernas-frontier": Workload(_networks.MobileNet, lambda s: _networks.frontier(s, 60), 2000, 2000),
}


PROFILES = {  # images of calibration, convention of statistics, images of validation
    "spos": (25_600, "ema", 8_000),
    "ofa": (2_000, "batch_mean", 10_000),
    "bignas": (4_096, "cumulative", 50_000),
}
"""The settings of published code: Single Path One-Shot, Once-for-All, BigNAS."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workloads", nargs="*", help=f"among {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--data", help="imagefolder:PATH of 32 x 32 images; random images by default")
    parser.add_argument("--train", type=int, default=0, help="steps of training beforehand (uniform paths)")
    parser.add_argument("--profile", choices=PROFILES, help="images and statistics as in published code")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where all of it runs")
    parser.add_argument("--fp32-products", choices=["exact", "tf32"], default=fp32_products())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, two rounds")
    parser.add_argument(
        "--compiled",
        nargs="*",
        default=["nir-residual", "nir-plain"],
        help="workloads for whose candidates torch.compile is tried: half a minute and more for each",
    )
    parser.add_argument("--without", nargs="*", default=[], help="what not to run: sequential, torch")
    parser.add_argument("--ways", nargs="*", default=[], help="as well: levels, resident, resident alone")
    parser.add_argument("--output", help="the record; what it holds of other workloads stays")
    options = parser.parse_args()
    unknown = {*options.workloads, *options.compiled} - set(WORKLOADS)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    _harness.require_kernels(options.device)
    with fp32_products_as(options.fp32_products):
        measure_all(options)


def measure_all(options):
    """Measure what the options say, and write the record."""
    record = {
        "benchmark": "evaluate",
        "precision": options.precision,
        "data": options.data or "random images",
        "training_steps": options.train,
        "profile": options.profile,
        "calibration_batch": CALIBRATION_BATCH,
        "machine": _harness.machine(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "clock": _harness.clock(options.device, options.threads).__name__,
        "most_of_onednn": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "peak_flops": _harness.peak_flops(options.precision, options.device),
        "workloads": {},
    }
    if options.output and Path(options.output).exists():
        record["workloads"] = kept(record, json.loads(Path(options.output).read_text(encoding="utf-8")))
    for name in options.workloads or WORKLOADS:
        modes = MODES[options.device] if name in options.compiled else {}
        record["workloads"][name] = measure(WORKLOADS[name], options, record["peak_flops"], modes)
        report(name, record["workloads"][name])
        if options.output:
            _harness.write(record, options.output)


def kept(record, earlier):
    """Return the workloads of an earlier record, if it was made with the same options."""
    for name in ("precision", "data", "profile", "device"):
        if record[name] != earlier[name]:
            raise SystemExit(f"--output holds a record of {name} {earlier[name]}, not {record[name]}")
    for name in ("kernels", "fp32_products"):
        if record["machine"].get(name) != earlier["machine"].get(name):
            raise SystemExit(f"--output holds a record of {name}: {earlier['machine'].get(name)}")
    if record["machine"]["threads"] != earlier["machine"]["threads"]:
        raise SystemExit(f"--output holds a record of {earlier['machine']['threads']} threads")
    return earlier["workloads"]


def measure(workload, options, peak, modes):
    counts, convention = (workload.calibration, workload.validation), "cumulative"
    if options.profile:
        calibration_images, convention, validation_images = PROFILES[options.profile]
        counts = calibration_images, validation_images
    if options.quick:
        counts = counts[0] // 10, counts[1] // 10
    supernet = workload.make().to(options.device)
    calibration, validation, training = load_images(options, supernet, *counts)
    candidates = list(workload.candidates(supernet.space))
    if options.train:
        rng = random.Random(0)
        train(supernet, training, options.train, lambda: supernet.space.sample(rng))
    else:
        shake(supernet)
    runs = {}
    networks = [supernet.extract(candidate) for candidate in candidates]
    batches = calibration.tensor_split(-(-len(calibration) // CALIBRATION_BATCH))
    tuned = [supernet.extract(candidate).to(memory_format=torch.channels_last) for candidate in candidates]
    tuned_batches = [part.to(memory_format=torch.channels_last) for part in batches]
    tuned_images = validation[0].to(memory_format=torch.channels_last)
    step = -(-len(candidates) // 8)
    error = compare(
        supernet,
        candidates[::step],
        networks[::step],
        batches,
        validation[0][:100],
        options.precision,
        convention,
    )
    evaluator = {
        backend: lasfast.Evaluator(
            supernet,
            calibration,
            validation,
            backend,
            options.precision,
            convention,
            calibration_batch=CALIBRATION_BATCH,
        )
        for backend in ("native", "torch")
    }
    runs["native"] = lambda: evaluator["native"](candidates)
    batch = best_batch(tuned[0], tuned_images[:1000], options.precision)
    way, ready, trials, preparing = tune(
        tuned, tuned_batches, tuned_images, batch, options.precision, convention, modes
    )
    check(ready[0], networks[0], batches, validation[0][:batch], options.precision, convention)
    runs["tuned"] = lambda: one_by_one(
        ready, tuned_batches, tuned_images, batch, options.precision, convention
    )
    if "sequential" not in options.without:
        runs["sequential"] = lambda: one_by_one(networks, batches, validation[0], 250, "fp32", convention)
    if "torch" not in options.without:
        runs["torch"] = lambda: evaluator["torch"](candidates)
    predicted = {}
    for forced in options.ways:
        runs[forced] = partial(predict_by, forced, evaluator["native"], candidates, predicted)
        runs[forced]()
    runs["native"]()  # warm up; `compare` did so for the others
    if way == "compiled":
        runs["tuned"]()  # compiles for the batches that were not tried
    predicted["native"] = evaluator["native"].backend.way
    rounds = 2 if options.quick else options.rounds
    clock = _harness.clock(options.device, options.threads)
    seconds = _harness.paired(runs, rounds, warm_up=0, once=["sequential"], clock=clock)
    tree = PrefixTree([supernet.path(candidate) for candidate in candidates])
    flops = tree_flops(tree, tuple(calibration.shape[1:])) * sum(counts)
    return {
        "candidates": len(candidates),
        "images": counts,
        "quick": options.quick,
        "statistics": convention,
        "sharing_ratio": tree.sharing_ratio,
        "errors": error,
        "tuned": way,
        "tuned_batch": batch,
        "tuned_trials": trials,
        "tuned_preparing_seconds": preparing,
        "seconds": seconds,
        "times_faster_than": {other: _harness.ratio(seconds, other, "native") for other in runs},
        "plan_flops": flops,
        "fraction_of_peak": flops / statistics.median(seconds["native"]) / peak,
        "predicted": predicted,
    }


def predict_by(way, evaluator, candidates, predicted):
    """Evaluate with predictions in this way, if it is offered; note in `predicted` which way it was.

    (LASFAST_CHOICE would take the usual tile of convolutions, too, and not the fastest.)
    """
    choose = cuda_executor.fastest

    def fastest(key, device, ways):
        return way if way in ways else choose(key, device, ways)

    with patch.object(cuda_executor, "fastest", fastest):
        evaluator(candidates)
    predicted[way] = evaluator.backend.way


def compare(supernet, candidates, networks, calibration, images, precision, convention):
    """Check that all give the same logits, within the precision; return the worst errors.

    The truth is PyTorch in fp32 on contiguous images; in channels_last, its batch norm loses digits.
    """
    tree = PrefixTree([supernet.path(candidate) for candidate in candidates])
    native = NativeBackend(supernet, precision)
    logits = native.predict(tree, native.calibrate(tree, calibration, convention), images)
    with fp32_products_as("exact"):
        truth = one_by_one(networks, calibration, images, 250, "fp32", convention)
    theirs = one_by_one(networks, calibration, images, 250, precision, convention)
    worst = {"native": 0.0, "torch": 0.0}
    for leaf, expected, torchs in zip(tree.leaves, truth, theirs, strict=True):
        ours = float((logits[leaf] - expected).norm() / expected.norm())
        other = float((torchs - expected).norm() / expected.norm())
        limit = _harness.logits_limit(precision, images.device, other)
        if not ours <= limit:
            raise SystemExit(f"native logits differ from PyTorch's by {ours:.2g}, more than {limit:.2g}")
        worst = {"native": max(worst["native"], ours), "torch": max(worst["torch"], other)}
    return worst


def tree_flops(tree, image_shape):
    """Return the multiply-adds of the whole prefix tree for one image."""
    shapes, total = {-1: image_shape}, 0
    for index, node in enumerate(tree.nodes):
        values = node.layer.shapes(shapes[node.parent])
        shapes[index] = values[-1]
        total += sum(op_flops(op, shape) for op, shape in zip(node.layer.ops, values[1:], strict=True))
    return total


def load_images(options, supernet, calibration, validation):
    """Return calibration images, (validation images, labels), and images to train on."""
    if options.data:
        data = lasfast.data.load(options.data, calibration=calibration, validation=validation)
        images, labels = data.validation
        validation = images.to(options.device), labels.to(options.device)
        return data.calibration.to(options.device), validation, data.train
    generator = torch.Generator().manual_seed(0)
    shape = calibration + validation, 3, IMAGE_SIZE, IMAGE_SIZE
    images = torch.randn(shape, generator=generator).to(options.device)
    labels = torch.randint(0, supernet.num_classes, (validation,), generator=generator).to(options.device)
    return images[:calibration], (images[calibration:], labels), None


def train(supernet, training, steps, draw):
    """Train one path, that of `draw()`, for each batch, in bf16 (autocast); the rate rises and falls."""
    if training is None:
        raise SystemExit("--train needs images to learn from: give --data")
    supernet.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(supernet.parameters(), momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    batches = (batch for epoch in itertools.count() for batch in training.batches(64, seed=epoch))
    for images, labels in itertools.islice(batches, steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = supernet(images.to(memory_format=torch.channels_last), draw())
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        schedule.step()
    supernet.to(memory_format=torch.contiguous_format)


def shake(supernet):
    """Give batch norms different scales and shifts, as training does."""
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)


def report(name, result):
    medians = {run: statistics.median(times) for run, times in result["seconds"].items()}
    ratios = result["times_faster_than"]
    print(
        f"{name}: {result['candidates']} candidates, {' + '.join(map(str, result['images']))} images, "
        f"native {medians['native']:.3g} s, {100 * result['fraction_of_peak']:.0f} % of peak; "
        + ", ".join(f"{ratios[run]:.2f}x {run} ({medians[run]:.3g} s)" for run in ratios if run != "native")
        + f"; predicted by {result['predicted']['native']}"
        + f"; tuned is {result['tuned']}, batches of {result['tuned_batch']}"
        + f"; error {result['errors']['native']:.1e} (PyTorch's {result['errors']['torch']:.1e})",
        flush=True,
    )


if __name__ == "__main__":
    main()
