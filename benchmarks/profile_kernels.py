"""Launches the kernels that matter most, each once and large enough to fill a GPU, for Nsight Compute.

    ncu --profile-from-start off --kernel-name "regex:^conv$" --clock-control none \\
        --section SpeedOfLight python -m benchmarks.profile_kernels "conv 128x64" statistics

Profiling is on for one launch of each name alone, after all that goes before it. The profiles come in the
order of the names that are printed. (ncu compares names without namespaces and template arguments.)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn

from benchmarks import bench_conv_train
from benchmarks._fused import native_run, random_images
from lasfast import supernets
from lasfast.engine import NativeBackend
from lasfast.engine.conv_tiles import ConvTiles, Size, Trial
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.ops import bn_act
from lasfast.runtime.autotune import UnfitError
from lasfast.selfcheck.case import environment

Run = Callable[[], object]

CALIBRATION, IMAGES, SIZE = 100, 2000, 32
BATCH_NORM = 128, 64, 32  # images, channels, height and width


def main() -> None:
    names: dict[str, Callable[[str], Run]] = {
        "conv 128x16": partial(conv, 128, 16, False),
        "conv 128x64": partial(conv, 128, 64, False),
        "conv 128x128": partial(conv, 128, 128, False),
        "conv 128x128 by warpgroups": partial(conv, 128, 128, True),
        "conv 256x128 by warpgroups": partial(conv, 256, 128, True),
        "resident": resident,
        "statistics": statistics,
        "grad_weight": grad_weight,
        "reduce": reduce,
    }
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"among {', '.join(names)}; all by default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no such kernel: {', '.join(sorted(unknown))}")
    for name in options.names or names:
        launch = names[name](options.device)
        print(f"profiling {name}", flush=True)
        with profiled(options.device):
            launch()


def profiled(device: str) -> AbstractContextManager[object]:
    """Return the context in which launches are profiled; they have ended where it ends."""
    return nullcontext() if device == "cpu" else torch.cuda.profiler.profile()


def finished(launch: Run, device: str) -> Run:
    """Return the launch with a wait for its end."""

    def run() -> None:
        launch()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def conv(rows: int, columns: int, warpgroups: bool, device: str) -> Run:
    """Return the launch of a 3x3 convolution of as many channels as the tile has, in bf16."""
    tiles = ConvTiles(torch.device(device), "bf16", tf32=False)
    trial = Trial(tiles, Size(3, columns, columns), tiles.usual(Size(3, columns, columns)))
    tile = next(n for n, shape in enumerate(tiles.shapes) if tuple(shape) == (rows, columns, warpgroups))
    try:
        trial.run(tile)
    except UnfitError:
        print("its bits are not those of the usual tile")
    return finished(partial(trial.run, tile), device)


def resident(device: str) -> Run:
    """Return the launch of a supernet's prediction in which values stay in shared memory."""
    torch.manual_seed(0)
    supernet = supernets.ResidualNet((2, 2, 2)).to(device)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    tree = PrefixTree([supernet.path(depths) for depths in ((2, 2, 2), (2, 2, 1))])
    images = torch.randn(IMAGES, 3, SIZE, SIZE, device=device)
    backend = NativeBackend(supernet, "bf16")
    statistics = backend.calibrate(tree, [images[:CALIBRATION]], "cumulative")

    def run() -> None:
        with environment({"LASFAST_CHOICE": "resident"}):
            backend.predict(tree, statistics, images)
        if backend.way != "resident":
            raise RuntimeError(f"no image fits into a multiprocessor here; predicted by {backend.way}")

    return finished(run, device)


def statistics(device: str) -> Run:
    """Return the launch of a convolution in calibration, whose last blocks pool its statistics."""
    weight = torch.randn(64, 64, 3, 3, device=device) / 24
    return finished(native_run(weight, random_images(128, 64, 16, device), "bf16", True), device)


def grad_weight(device: str) -> Run:
    """Return the launch of a convolution's gradient of the weight."""
    passes = bench_conv_train.Passes(bench_conv_train.SHAPES["3x3, 64 at 32x32"], torch.bfloat16, device)
    return finished(passes.native("grad_weight"), device)


def reduce(device: str) -> Run:
    """Return the launches of batch norm's backward pass, of which the first reads the tensors and sums."""
    images, channels, size = BATCH_NORM
    x, grad = (
        torch.randn(images, channels, size, size, device=device, dtype=torch.bfloat16).to(
            memory_format=torch.channels_last
        )
        for _ in range(2)
    )
    scale, bias = (torch.rand(channels, device=device).requires_grad_() for _ in range(2))
    with environment({"LASFAST_CHOICE": "native"}):
        y = bn_act(x.requires_grad_(), None, None, scale, bias, training=True, activation="relu")
    return finished(partial(torch.autograd.grad, y, [x, scale, bias], grad, retain_graph=True), device)


if __name__ == "__main__":
    main()
