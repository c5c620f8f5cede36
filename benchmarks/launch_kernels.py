"""Launches each of CUDA's kernels, on small values, for tools that watch launches, and compares nothing.

    compute-sanitizer --tool racecheck --kernel-name kns=lasfast python -m benchmarks.launch_kernels

What is launched: the engine's convolutions in every tile and product; a supernet's calibration, and its
prediction by levels and resident; training's fused operators forward and backward, in tiles of all widths
and by warpgroups; convolutions of any strides; the update of weights. Groups of these may be named.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from lasfast.engine import NativeBackend
from lasfast.engine.conv_tiles import ConvTiles, Size, Trial
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.ops.sgd import Sgd, SgdRule
from lasfast.runtime.autotune import UnfitError
from lasfast.runtime.kernels import has_warpgroups
from lasfast.runtime.precision import fp32_products, fp32_products_as, torch_dtype
from lasfast.selfcheck.case import environment
from lasfast.selfcheck.evaluation import Medley
from lasfast.selfcheck.training import DENSE, DEPTHWISE, GROUPED, LAST, PLANES, WIDE, Layer, Shape

KERNEL, IN_CHANNELS = 3, 40  # of the engine's convolutions: several steps of k, and a rest
TILE_BYTES = 1 << 18  # their values take so much memory: several tiles of positions
IMAGES, SIZE = 5, 15  # of the supernet
FUSED: Sequence[Shape] = (DENSE[0], DENSE[2], *WIDE[:2], *DEPTHWISE)
STRIDED: Sequence[Shape] = (DENSE[1], DEPTHWISE[1], GROUPED)
PRODUCTS = {"bf16": "bf16", "exact": "fp32", "TF32": "fp32"}  # and how values are stored for them


def main() -> None:
    groups = {"tiles": tiles, "supernet": supernet, "training": training, "strided": strided, "sgd": sgd}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("groups", nargs="*", help=f"among {', '.join(groups)}; all by default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    unknown = set(options.groups) - set(groups)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    for name in options.groups or groups:
        for product, stored in PRODUCTS.items():
            print(f"{name}, {product}", flush=True)
            with fp32_products_as("tf32" if product == "TF32" else "exact"):
                groups[name](device, stored)
            if device.type == "cuda":
                torch.cuda.synchronize()


def tiles(device: torch.device, stored: str) -> None:
    """Launch the engine's convolutions in every tile that suits the product."""
    tf32 = stored == "fp32" and fp32_products() == "tf32"
    ways = ConvTiles(device, stored, tf32=tf32, memory_budget=TILE_BYTES)
    launched: set[int] = set()
    for columns in (16, 32, 64, 128):
        size = Size(KERNEL, IN_CHANNELS, columns)
        usual = ways.usual(size)
        trial = Trial(ways, size, usual)
        launched.add(usual)
        for tile in set(ways.others(usual)) - launched:
            try:
                trial.run(tile)
            except UnfitError:
                print(f"  other bits in {ways.name(tile)} than in {ways.name(usual)}", flush=True)
            launched.add(tile)


def supernet(device: torch.device, stored: str) -> None:
    """Calibrate a small supernet of many kinds of operations, and predict in both ways."""
    torch.manual_seed(0)
    net = Medley().to(device)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    images = torch.randn(IMAGES, 3, SIZE, SIZE).to(device)
    tree = PrefixTree([net.path((depth,)) for depth in (1, 2)])
    backend = NativeBackend(net, stored)
    for way in ("levels", "resident"):
        with environment({"LASFAST_CHOICE": way}):
            statistics = backend.calibrate(tree, [images], "cumulative")
            backend.predict(tree, statistics, images)


def training(device: torch.device, stored: str) -> None:
    """Run training's fused operators forward and backward; in bf16 by warpgroups, too."""
    by_warpgroups = stored == "bf16" and has_warpgroups(device)
    for choice in ("native", *(("warpgroups",) if by_warpgroups else ())):
        with environment({"LASFAST_CHOICE": choice}):
            for shape in FUSED:
                _run(shape, stored, device, Layer.fused, LAST)
            _run(FUSED[0], stored, device, Layer.evaluated, LAST)


def strided(device: torch.device, stored: str) -> None:
    """Run convolutions of contiguous values forward and backward."""
    with environment({"LASFAST_CHOICE": "native"}):
        for shape in STRIDED:
            _run(shape, stored, device, Layer.alone, PLANES)


def sgd(device: torch.device, stored: str) -> None:
    """Update a weight's slice, with momentum and with clipping."""
    if PRECISIONS[stored].code:
        return  # weights are always float32
    weight, gradient = torch.randn(2, 40, 24, 3, 3).to(device)
    for rule in (SgdRule(0.9, nesterov=True), SgdRule(clip_norm=1.0)):
        momenta = [torch.zeros_like(weight)] if rule.momentum else None
        Sgd([weight], momenta, [[(slice(0, 19), slice(11))]], rule).update([gradient], 0.1, 1.0)


def _run(
    shape: Shape,
    stored: str,
    device: torch.device,
    operator: Callable[..., torch.Tensor],
    layout: torch.memory_format,
) -> None:
    layer = Layer(shape, torch_dtype(stored), device, layout)
    layer.results(partial(operator, layer))


if __name__ == "__main__":
    main()
