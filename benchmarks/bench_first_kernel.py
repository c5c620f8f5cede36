"""How long a call of the evaluator works before its first kernel: trees, schedules, sizes, packed weights.

    python -m benchmarks.bench_first_kernel                                  # both workloads, no budget
    python -m benchmarks.bench_first_kernel assignments --budget 40000000    # bytes, by which the tree is cut
    python -m benchmarks.bench_first_kernel --against ../other-checkout      # in turn with another version

Each run is a fresh process in which the kernels of passes do nothing, so what is left of a whole call is the
host's share. Times are the process' own (CPU) in milliseconds, on one thread, which a busy machine disturbs
least; the evaluator is made beforehand.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import lasfast
from benchmarks import _harness
from lasfast import supernets

IMAGES = 125
KERNELS = ("schedule_calibrate", "schedule_predict")


def assignments():
    """All 91 assignments of depth 15 to three groups."""
    supernet = supernets.ResidualNet((13, 13, 13))
    return supernet, list(supernet.space.enumerate(depth=15))


def mobilenet():
    """60 random architectures."""
    supernet, rng = supernets.MobileNet("60M", 10, stem="cifar"), random.Random(0)
    return supernet, [supernet.space.sample(rng) for _ in range(60)]


WORKLOADS = {"assignments": assignments, "mobilenet": mobilenet}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workloads", nargs="*", help=f"among {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--budget", type=int, help="memory budget in bytes; none by default")
    parser.add_argument("--runs", type=int, default=5, help="processes for each workload and version")
    parser.add_argument("--against", type=Path, help="another checkout, with its compiled module")
    parser.add_argument("--output", help="the record")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    if options.once:
        print(json.dumps(measure(*WORKLOADS[options.workloads[0]](), options.budget)))
        return
    here = Path(__file__).parents[1]
    versions = {"this": here} | ({"other": options.against.resolve()} if options.against else {})
    record = {"benchmark": "first_kernel", "budget": options.budget, "workloads": {}}
    record["machine"] = _harness.machine()
    for name in options.workloads or WORKLOADS:
        runs = {version: [] for version in versions}
        for _ in range(options.runs):
            for version, path in versions.items():
                runs[version].append(in_a_process(name, options.budget, path))
        record["workloads"][name] = runs
        for version, measured in runs.items():
            first, call = (
                1e3 * statistics.median(one[what] for one in measured) for what in ("first_kernel", "call")
            )
            print(
                f"{name}, {version}: {first:.1f} ms before the first kernel, {call:.1f} ms in all, "
                f"{len(measured[0]['chunks'])} chunks",
                flush=True,
            )
    if options.output:
        _harness.write(record, options.output)


def in_a_process(name, budget, path):
    """Measure once with the version of lasfast that is at a path."""
    command = [sys.executable, str(Path(__file__).resolve()), name, "--once"]
    command += [] if budget is None else ["--budget", str(budget)]
    places = [str(path), str(Path(__file__).parents[1])]  # this version's harness, whichever lasfast
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(supernet, architectures, budget):
    """CPU seconds of a call of the evaluator until the first kernel and until its end, without kernels."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(0, 10, (IMAGES,))
    module, kernels = sys.modules["lasfast._C"], []
    for name in KERNELS:
        setattr(module, name, lambda *arguments: kernels.append(time.process_time()))
    evaluator = lasfast.Evaluator(supernet, images, (images, labels), "native", memory_budget=budget)
    chunks, original = [], evaluator.backend.calibrate

    def calibrate(tree, *arguments):
        chunks.append(len(tree.paths))
        return original(tree, *arguments)

    evaluator.backend.calibrate = calibrate
    start = time.process_time()
    evaluator(architectures)
    end = time.process_time()
    return {"first_kernel": kernels[0] - start, "call": end - start, "chunks": chunks}


if __name__ == "__main__":
    main()
