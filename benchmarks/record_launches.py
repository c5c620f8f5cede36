"""What is queued on a GPU for an evaluation and for a layer's training step, counted without a GPU.

    python -m benchmarks.record_launches [--output benchmarks/results/launches.json]

CUDA's kernels run on the host (`lasfast._emulated`), which counts their launches. Of what PyTorch does beside
them, operations that read or write a tensor's values are counted, each of which is a kernel, a copy or a
memset on a GPU. Counts do not depend on how many images there are, or how large: a few small ones are taken.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import _harness
from benchmarks.bench_evaluate import WORKLOADS as EVALUATED
from lasfast.engine import NativeBackend
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.native_backend import EXECUTORS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.ops import conv_bn_act
from lasfast.ops.packing import Packings
from lasfast.runtime import compiled, placement

WORKLOADS = ("nir-residual", "assignments-15")
LAYERS = {  # c_in, c_out, those of the weight
    "whole weight": (16, 16, 16),
    "slice of a weight": (16, 16, 24),
}
FREE = ("empty", "view", "as_strided", "slice", "select", "expand", "permute", "transpose", "unsqueeze")
FREE += (
    "detach",
    "split",
    "unbind",
    "alias",
    "resolve",
    "result_type",
    "item",
    "is_",
    "_local_scalar",
    "lift",
)
FREE += ("narrow", "squeeze", "t", "set_", "unsafe_split", "resize")


class Counter:
    """Counts launches of the stand-in's kernels, those that may begin early, and PyTorch's operations."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
        """Return what `run` returns, and the counts."""
        self._module.noted_launches()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            result = run()
        parents = {event.cpu_parent for event in profiled.events() if event.name.startswith("aten::")}
        torch_count = sum(
            event.name.startswith("aten::")
            and event not in parents
            and not event.name.removeprefix("aten::").startswith(FREE)
            for event in profiled.events()
        )
        launches = self._module.noted_launches()
        early = sum(count for (_, _, is_early), count in launches.items() if is_early)
        return result, {"lasfast": sum(launches.values()), "early": early, "torch": torch_count}


@contextmanager
def on_the_host() -> Iterator[Any]:
    """Let evaluation and training run CUDA's kernels on the host; give their module."""
    module = importlib.import_module("lasfast._emulated")
    here = placement.Placement("cuda", (0, 0))
    module.set_idle(True)  # their results do not matter
    with (
        ExitStack() as stack,
        patch.dict(os.environ, LASFAST_CHOICE="native"),
        patch.object(compiled, "load", lambda: module),
        patch.object(placement, "of", lambda tensor: here),
        patch.dict(EXECUTORS, cpu=CudaExecutor),
    ):
        stack.callback(module.set_idle, False)
        yield module


def evaluation(count: Counter) -> dict[str, Any]:
    """Return the counts of calibrating each workload's candidates, and of predicting with scores, in bf16."""
    found: dict[str, Any] = {}
    for name in WORKLOADS:
        supernet = EVALUATED[name].make()
        tree = PrefixTree([supernet.path(one) for one in EVALUATED[name].candidates(supernet.space)])
        found |= _evaluation(count, NativeBackend(supernet, "bf16"), tree)
    return found


def _evaluation(count: Counter, backend: NativeBackend, tree: PrefixTree) -> dict[str, Any]:
    images, labels = [torch.zeros(2, 3, 8, 8)] * 2, torch.zeros(2, dtype=torch.int64)
    statistics = backend.calibrate(tree, images[:1], "cumulative")
    passes: dict[str, Callable[[Sequence[Tensor]], Any]] = {
        "calibration": lambda batches: backend.calibrate(tree, batches, "cumulative"),
        "prediction": lambda batches: backend.score_batches(
            tree, statistics, [(one, labels) for one in batches]
        ),
    }
    found: dict[str, Any] = {}
    for what, run in passes.items():
        one, two = (count(partial(run, images[:batches]))[1] for batches in (1, 2))
        found[f"{what} of {len(tree.paths)} candidates"] = {
            "preparations and a batch": one,
            "another batch": {who: two[who] - one[who] for who in two},
        }
    return found


def training(count: Counter) -> dict[str, Any]:
    """Return the counts of convolutions with batch norm and activation, forward and backward, in bf16.

    Of ten of them, the weights are packed together, as this happens to all steps but the first.
    """
    found = {name: _layers(count, 1, *sizes) for name, sizes in LAYERS.items()}
    return found | {"ten layers, whole weights": _layers(count, 10, *LAYERS["whole weight"])}


def _layers(count: Counter, number: int, c_in: int, c_out: int, whole: int) -> dict[str, Any]:
    x = torch.randn(2, c_in, 8, 8, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weights = [
        nn.Parameter(torch.randn(whole, whole, 3, 3).contiguous(memory_format=torch.channels_last))
        for _ in range(number)
    ]
    running = [torch.zeros(c_out), torch.ones(c_out)]
    norms = [[nn.Parameter(torch.ones(c_out)), nn.Parameter(torch.zeros(c_out))] for _ in weights]
    leaves = [x.requires_grad_(), *weights, *(one for norm in norms for one in norm)]
    packings = Packings()

    def forward() -> Tensor:
        y = x
        with packings.ahead("step"):
            for weight, norm in zip(weights, norms, strict=True):
                y = conv_bn_act(y, weight, *running, *norm, c_out=c_out, padding=1, training=True)
        return y

    forward()  # what is found out once
    y, ahead = count(forward)
    grad = torch.randn_like(y)
    _, back = count(lambda: torch.autograd.grad(y, leaves, grad))
    return {"forward": ahead, "backward": back}


def measured() -> dict[str, Any]:
    """Return all counts."""
    with on_the_host() as module:
        count = Counter(module)
        return {"evaluation": evaluation(count), "training": training(count)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="where the record is written")
    options = parser.parse_args()
    counts = measured()
    for what, of_cases in counts.items():
        for case, of_steps in of_cases.items():
            for step, number in of_steps.items():
                print(
                    f"{what}, {case}, {step}: {number['lasfast']} launches, {number['early']} of them early, "
                    f"{number['torch']} by PyTorch"
                )
    if options.output:
        _harness.write({"record": "launches", "torch": torch.__version__, "counts": counts}, options.output)


if __name__ == "__main__":
    main()
