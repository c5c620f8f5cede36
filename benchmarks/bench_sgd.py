"""SGD on the weights of a sub-network against torch.optim.SGD: one update, with and without clipping.

    python -m pytest benchmarks/bench_sgd.py -s --benchmark-group-by=group

Each updates weights of its own, in channels_last, and they take turns. PyTorch's fused SGD updates whole
weights; ours updates the slices that the sub-network uses. `extra_info` has the median ratio of their times,
and GB/s, counting weights and momenta read and written, and gradients read.
"""

from __future__ import annotations

import copy
import random
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks._fused import THREADS
from benchmarks.bench_bn_act import taking_turns
from lasfast import supernets
from lasfast.ops.sgd import Sgd, SgdRule
from lasfast.train.update import used_parts


def deepest(supernet):
    return supernet.space.deepest


def drawn(supernet):
    return supernet.space.sample(random.Random(0))


NETWORKS = {
    "demo": (lambda: supernets.ResidualNet((5, 5, 5), num_classes=10, in_channels=1), deepest),
    "residual": (lambda: supernets.ResidualNet((6, 6, 6)), deepest),
    "resnet50": (lambda: supernets.ResNet50((4, 5, 7, 4), num_classes=10), deepest),
    "shufflenet-channels": (lambda: supernets.ShuffleNetV2(10, stem="cifar", search="channels"), drawn),
}
OPTIONS = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
RATE = 1e-6


@pytest.mark.parametrize("clip_norm", [None, 1.0], ids=["plain", "clipped"])
@pytest.mark.parametrize("network", NETWORKS)
def test_sgd(benchmark: Callable, network: str, clip_norm: float | None, device: str) -> None:
    torch.set_num_threads(THREADS)
    make, choose = NETWORKS[network]
    supernet = make().to(device, memory_format=torch.channels_last)
    path = supernet.path(choose(supernet))
    sgd, gradients = ours(supernet, path, clip_norm)
    theirs = torch_step(copy.deepcopy(supernet), path, clip_norm)
    values = sum(weight[part].numel() for weight, parts in used(supernet, path) for part in parts)
    target = torch.empty(values, device=device)
    source = torch.zeros_like(target)

    runs = {"native": lambda: sgd.update(gradients, RATE), "torch": theirs}
    seconds = taking_turns(runs, lambda: target.copy_(source), device)
    ratio = statistics.median(b / a for a, b in zip(seconds["native"], seconds["torch"], strict=True))
    benchmark.group = f"{network}, {'plain' if clip_norm is None else 'clipped'}"
    benchmark.extra_info["torch / native"] = round(ratio, 2)
    benchmark.extra_info["GB/s"] = round(5 * 4 * values / statistics.median(seconds["native"]) / 1e9, 1)
    print(f"\n{benchmark.group}: {benchmark.extra_info}")
    benchmark.pedantic(runs["native"], rounds=10, warmup_rounds=1)


def used(supernet, path):
    return used_parts(dict(supernet.named_modules()), path)


def ours(supernet, path, clip_norm):
    weights, parts = zip(*used(supernet, path), strict=True)
    momenta = [torch.zeros_like(weight) for weight in weights]
    gradients = [torch.randn_like(weight) for weight in weights]
    rule = SgdRule(OPTIONS["momentum"], OPTIONS["nesterov"], OPTIONS["weight_decay"], clip_norm)
    return Sgd(weights, momenta, parts, rule), gradients


def torch_step(supernet, path, clip_norm):
    weights = [weight for weight, _ in used(supernet, path)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=RATE, fused=True, **OPTIONS)
    optimizer.step()

    def step():
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(weights, clip_norm)
        optimizer.step()

    return step
