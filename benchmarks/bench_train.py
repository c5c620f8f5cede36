"""A training step of a supernet: lasfast's operators against PyTorch, on the same images and weights.

    python -m benchmarks.bench_train                               # every workload, random images
    python -m benchmarks.bench_train nir-residual --data imagefolder:data/cifar10

A NIR step trains the deepest sub-network and three candidates on each batch of 128 images, with an update for
each (`sequential`) or one for all (`joint`); a one-shot step trains one random path. The baselines train
extracted networks that share their weights. `eager` has PyTorch's defaults (fp32, contiguous, plain SGD).
`tuned` has channels_last, fused SGD, and bf16 autocast or fp32, whichever is faster for the workload, and is
compiled if that is faster still; with `--device cuda`, where paths recur, each path's whole update is also a
CUDA graph. Compiling and recording are not timed. Before anything is timed, losses and gradients of one batch
are compared. Each trains a copy of the supernet of its own; images are on the device.
"""

import argparse
import copy
import itertools
import json
import os
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

import lasfast
from benchmarks import _harness
from lasfast import supernets
from lasfast.costs.flops import path_flops
from lasfast.runtime.precision import fp32_products, fp32_products_as
from lasfast.train import OneShotTrainer, SupernetTrainer, TrainSettings

BATCH = 128
IMAGES = 1024  # held in memory, and trained on in turn


@dataclass(frozen=True)
class Workload:
    """A supernet, and the paths that a batch trains: the deepest and three candidates, or a random one."""

    make: object
    before: tuple[int, ...] | None = None  # the assignment whose children are the candidates
    image_size: int = 32


WORKLOADS = {
    "nir-residual": Workload(lambda: supernets.ResidualNet((6, 6, 6)), (3, 4, 5)),
    "nir-plain": Workload(lambda: supernets.PlainNet((4, 4, 4)), (3, 3, 2)),
    "nir-mobilenet-v1": Workload(
        lambda: supernets.MobileNetV1((4, 4, 6, 3), num_classes=10, stem="cifar"), (2, 2, 5, 2)
    ),
    "nir-resnet50-64": Workload(
        lambda: supernets.ResNet50((4, 5, 7, 4), num_classes=10), (3, 4, 5, 3), image_size=64
    ),
    "spos-shufflenet": Workload(lambda: supernets.ShuffleNetV2(10, stem="cifar")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workloads", nargs="*", help=f"among {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--data", help="imagefolder:PATH of 32 x 32 images; random images by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="batches in each round of each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where all of it runs")
    parser.add_argument("--fp32-products", choices=["exact", "tf32"], default=fp32_products())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--without", nargs="*", default=[], help="what not to try: compiled")
    parser.add_argument("--output", help="the record; what it holds of other workloads stays")
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    _harness.require_kernels(options.device)
    with fp32_products_as(options.fp32_products):
        measure_all(options)


def measure_all(options):
    """Measure what the options say, and write the record."""
    record = {
        "benchmark": "train",
        "precision": options.precision,
        "data": options.data or "random images",
        "batch": BATCH,
        "machine": _harness.machine(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "clock": _harness.clock(options.device, options.threads).__name__,
        "most_of_onednn": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "peak_flops": _harness.peak_flops(options.precision, options.device),
        "workloads": {},
    }
    if options.output and Path(options.output).exists():
        earlier = json.loads(Path(options.output).read_text(encoding="utf-8"))
        for name in ("precision", "data", "device"):
            if record[name] != earlier.get(name, "cpu"):
                raise SystemExit(f"--output holds a record of {name} {earlier.get(name)}, not {record[name]}")
        for name in ("kernels", "fp32_products"):
            if record["machine"].get(name) != earlier["machine"].get(name):
                raise SystemExit(f"--output holds a record of {name}: {earlier['machine'].get(name)}")
        record["workloads"] = earlier["workloads"]
    for name in options.workloads or WORKLOADS:
        record["workloads"][name] = measure(WORKLOADS[name], options, record["peak_flops"])
        report(name, record["workloads"][name])
        if options.output:
            _harness.write(record, options.output)


def measure(workload, options, peak):
    torch.manual_seed(0)
    supernet = workload.make().train().to(options.device)
    images = load_images(options, workload)
    paths = step_paths(workload, supernet)
    errors = compare(workload, supernet, images, next(paths), options.precision)
    runs = {"eager": baseline(workload, supernet, images, "fp32", options.steps, tuned=False)}
    name, runs["tuned"], trials, preparing = tune(workload, supernet, images, options)
    for update in ("sequential", "joint") if workload.before else ("sequential",):
        runs[update] = ours(workload, supernet, images, options.precision, update, options.steps)
    for name_of_ours in set(runs) - {"eager", "tuned"}:
        for _ in range(1 if workload.before else 10):  # after ten random paths, most shapes have occurred
            runs[name_of_ours]()
    clock = _harness.clock(options.device, options.threads)
    seconds = _harness.paired(runs, options.rounds, clock=clock)
    chosen = list(itertools.islice(step_paths(workload, supernet), options.steps))
    shape = (3, workload.image_size, workload.image_size)
    flops = (
        3
        * BATCH
        * statistics.mean(sum(path_flops(supernet.path(path), shape) for path in step) for step in chosen)
    )
    return {
        "paths": [supernet.space.format(path) for path in chosen[0]],
        "steps": options.steps,
        "errors": errors,
        "tuned": name,
        "tuned_trials": trials,
        "tuned_preparing_seconds": preparing,
        "seconds": seconds,
        "times_faster": {
            update: {other: _harness.ratio(seconds, other, update) for other in ("tuned", "eager")}
            for update in ("sequential", "joint")
            if update in seconds
        },
        "step_flops": flops,
        "fraction_of_peak": flops / statistics.median(seconds["sequential"]) / peak,
    }


def tune(workload, supernet, images, options):
    """Return the fastest way of PyTorch (precision, CUDA graphs, compiled), its run, and all seconds."""
    runs, trials, preparing = {}, {}, {}

    def attempt(precision, ways=("eager",)):
        start, name = time.perf_counter(), " ".join((precision, *ways))
        runs[name] = baseline(
            workload,
            supernet,
            images,
            precision,
            options.steps,
            compiled="compiled" in ways,
            graphs="graphs" in ways,
        )
        runs[name]()
        preparing[name] = time.perf_counter() - start
        trials[name] = _harness.paired({name: runs[name]}, 2, warm_up=0)[name]

    def best():
        return min(trials, key=lambda name: min(trials[name]))

    for precision in dict.fromkeys((options.precision, "fp32")):
        attempt(precision)
    graphs = ["graphs"] if options.device == "cuda" else []
    if workload.before and graphs:  # each random path would need a graph and compiled code of its own
        attempt(best().split()[0], graphs)
    if workload.before and "compiled" not in options.without:
        attempt(best().split()[0], ("compiled", *graphs))
    return best(), runs[best()], trials, preparing


def step_paths(workload, supernet):
    """Return an iterator over the architectures that each batch trains."""
    rng = random.Random(0)
    if not workload.before:
        return ([supernet.space.sample(rng)] for _ in itertools.count())
    candidates = supernet.space.inherit(workload.before)[:3]
    return itertools.repeat([supernet.space.deepest, *candidates])


def load_images(options, workload):
    if not options.data:
        generator = torch.Generator().manual_seed(0)
        size = workload.image_size
        images = torch.randn(IMAGES, 3, size, size, generator=generator)
        labels = torch.randint(0, 10, (IMAGES,), generator=generator)
    else:
        images, labels = lasfast.data.load(options.data, calibration=1, validation=IMAGES).validation
        images = F.interpolate(images, size=(workload.image_size,) * 2)
    return images.to(options.device), labels.to(options.device)


def settings(precision, operators="native"):
    return TrainSettings(
        batch_size=BATCH,
        learning_rate=1e-3,
        warm_up_epochs=10**6,
        epochs_per_step=10**6,
        supernet_epochs=10**6,
        precision=precision,
        operators=operators,
    )


def ours(workload, supernet, images, precision, update, steps):
    """Return a function that trains `steps` batches with lasfast's trainer."""
    supernet, device = copy.deepcopy(supernet), images[0].device.type
    if workload.before:
        trainer = SupernetTrainer(supernet, images, settings(precision), update=update)
        batches = trainer.train(1, next(step_paths(workload, supernet))[1:])
    else:
        batches = OneShotTrainer(supernet, images, settings(precision)).train(0)

    def run():
        for _ in itertools.islice(batches, steps):
            pass
        _harness.synchronize(device)

    return run


def baseline(workload, supernet, images, precision, steps, *, tuned=True, compiled=False, graphs=False):
    """Return a function that trains as many batches in PyTorch: a network for each path, with shared weights.

    With `graphs`, the update of each path is recorded the first time, and replayed afterwards.
    """
    supernet, networks, replays, device = copy.deepcopy(supernet), {}, {}, images[0].device.type
    layout = torch.channels_last if tuned else torch.contiguous_format
    supernet.to(memory_format=layout)
    source = images[0].to(memory_format=layout)
    kept = source[:BATCH].clone(memory_format=torch.preserve_format), images[1][:BATCH].clone()

    def network(path):
        if path not in networks:
            networks[path] = share(supernet.extract(path), supernet)
            if compiled:
                networks[path] = torch.compile(networks[path])
        return networks[path]

    if not workload.before:  # networks are extracted beforehand, since that is not training
        for (path,) in itertools.islice(step_paths(workload, supernet), 500):
            network(path)
    optimizer = torch.optim.SGD(
        supernet.parameters(),
        lr=1e-3,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        fused=True if tuned else None,
    )

    def update(path, batch, labels):
        optimizer.zero_grad(set_to_none=True)
        # A graph must not depend on a cache of autocast that is freed after it.
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16", cache_enabled=not graphs):
            logits = network(path)(batch)
        F.cross_entropy(logits.float(), labels).backward()
        for parameter in supernet.parameters():
            if parameter.grad is not None and "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        optimizer.step()

    def replay(path, batch, labels):
        for tensor, values in zip(kept, (batch, labels), strict=True):
            tensor.copy_(values)
        if path not in replays:
            replays[path], _ = _harness.recorded(lambda: update(path, *kept))
        replays[path]()

    paths = step_paths(workload, supernet)
    starts = itertools.cycle(range(0, IMAGES, BATCH))

    def run():
        for start, step in itertools.islice(zip(starts, paths, strict=False), steps):
            batch, labels = source[start : start + BATCH], images[1][start : start + BATCH]
            for path in step:
                (replay if graphs else update)(path, batch, labels)
        _harness.synchronize(device)

    return run


def share(network, supernet):
    """Give a network the supernet's own weights and buffers."""
    for name, module in network.named_modules():
        if name and next(module.parameters(recurse=False), None) is not None:
            owner = supernet.get_submodule(name)
            module._parameters, module._buffers = owner._parameters, owner._buffers
    return network.train()


def compare(workload, supernet, images, step, precision):
    """Return the relative errors of a batch's losses and gradients, ours and PyTorch's, against float64."""
    batch, labels = images[0][:BATCH], images[1][:BATCH]
    found = {}
    products = fp32_products()
    exact = copy.deepcopy(supernet).double()
    for name, network, way, multiplied, fused in (
        ("truth", exact, "fp32", "exact", False),
        ("torch", supernet, precision, products, False),
        ("ours", supernet, precision, products, True),
    ):
        network.zero_grad()
        dtype = next(network.parameters()).dtype
        run = network.layer_runner(fused=fused)
        losses = []
        with fp32_products_as(multiplied):
            for path in step:
                with torch.autocast(batch.device.type, torch.bfloat16, enabled=way == "bf16"):
                    value = batch.to(dtype, memory_format=torch.channels_last)
                    for layer in network.path(path):
                        value = run(layer, value)
                losses.append(F.cross_entropy(value.to(dtype), labels))
            torch.stack(losses).sum().backward()
        gradients = [one.grad.flatten().double() for one in network.parameters() if one.grad is not None]
        found[name] = torch.stack(losses).detach().double(), torch.cat(gradients)
    supernet.zero_grad()
    errors = {
        name: [
            float((mine - true).norm() / true.norm())
            for mine, true in zip(found[name], found["truth"], strict=True)
        ]
        for name in ("ours", "torch")
    }
    rounded = _harness.is_rounded(precision, batch.device)
    theirs = errors["torch"][1]
    # Without rounding, the error of one convolution may be 4 times PyTorch's, by Winograd's algorithm.
    limit = 2 * theirs + 0.01 if rounded else 4 * theirs + 1e-4
    if not errors["ours"][1] <= limit:
        raise SystemExit(f"gradients are wrong by {errors['ours'][1]:.2g}, more than {limit:.2g}")
    return {name: dict(zip(("loss", "gradient"), pair, strict=True)) for name, pair in errors.items()}


def report(name, result):
    each = {run: statistics.median(times) / result["steps"] for run, times in result["seconds"].items()}
    print(f"{name}: eager {1 / each['eager']:.2f} steps/s, tuned ({result['tuned']}) {1 / each['tuned']:.2f}")
    for update, ratios in result["times_faster"].items():
        faster = ", ".join(f"{ratio:.2f}x {other}" for other, ratio in ratios.items())
        print(f"  {update}: {1 / each[update]:.2f} steps/s, {faster}", flush=True)
    ours, torchs = (result["errors"][name]["gradient"] for name in ("ours", "torch"))
    peak = 100 * result["fraction_of_peak"]
    print(f"  {peak:.0f} % of peak; gradient's error {ours:.1e} (PyTorch's {torchs:.1e})")


if __name__ == "__main__":
    main()
