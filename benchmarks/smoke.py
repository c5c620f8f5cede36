"""A first look at the kernels of Hopper's warpgroups, in seconds: are they right, equal in bits, and faster?

    python -m benchmarks.smoke --device cuda [--tensor-maps] [--output smoke.json]

Convolutions of 3x3 in evaluation's tiles of warpgroups stand beside the usual tile, and training's passes by
warpgroups beside those by warps. With `--tensor-maps`, it is convolutions that Hopper copies for by itself
alone, since they might hang. Each result is compared with PyTorch's in float64, on bf16 operands as the
kernel reads them, in norm and by its worst element, with the bounds of `lasfast check`; before the run, the
output is NaN. The exit status is 1 where a result is wrong.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import _harness, bench_conv_train
from benchmarks._fused import repeated
from lasfast.engine.conv_tiles import SIDE, ConvTiles, Size, Trial
from lasfast.runtime import compiled
from lasfast.runtime.autotune import UnfitError
from lasfast.runtime.kernels import has_warpgroups
from lasfast.selfcheck.case import ELEMENT_ROUNDING, ROUNDING, element_error, relative_error

SIZES = (Size(3, 64, 64), Size(3, 256, 256))
SHAPES = ("3x3, 64 at 32x32", "3x3, 128 at 16x16")  # of 64 and 128 columns
COMPARED = 16  # images, or filters of a gradient, half of them the first and half the last
ROUNDS = 10


@dataclass(frozen=True)
class Result:
    """What was found of a kernel; `same_bits` says whether all bits are those of the usual kernel."""

    what: str
    kernel: str
    error: float
    element_error: float
    same_bits: bool
    milliseconds: float

    @property
    def right(self) -> bool:
        """Return whether the errors are those of rounding to bf16."""
        return self.error <= ROUNDING and self.element_error <= ELEMENT_ROUNDING  # never where they are NaN

    def __str__(self) -> str:
        bits = "same bits" if self.same_bits else "other bits"
        errors = f"error {self.error:.1e}, of an element {self.element_error:.1e}"
        end = "" if self.right else "; WRONG"
        return f"{self.what:32} {self.kernel:30} {errors}; {bits}; {self.milliseconds:.3f} ms{end}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tensor-maps", action="store_true", help="convolutions by tensor maps alone")
    parser.add_argument("--output", help="the record")
    options = parser.parse_args()
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    if not has_warpgroups(device):
        raise SystemExit("there are no warpgroups here, or no code for them (LASFAST_CUDA_ARCHS=90a)")
    if options.tensor_maps and not compiled.load().schedule_has_tensor_maps_cuda(device.index or 0):
        raise SystemExit("there are no tensor maps here, or no code for them (CUDA 12.3)")
    results: list[Result] = []
    works = (evaluation(device, mapped=True),)
    if not options.tensor_maps:
        works = evaluation(device), training(device)
    for results_of in works:
        for result in results_of:
            print(result, flush=True)
            results.append(result)
            if options.output:
                record = {"record": "smoke", "machine": _harness.machine()}
                _harness.write(record | {"results": [asdict(one) for one in results]}, options.output)
    wrong = [f"{one.what} by {one.kernel}" for one in results if not one.right]
    if wrong:
        raise SystemExit(f"WRONG: {'; '.join(wrong)}")


def evaluation(device: torch.device, *, mapped: bool = False) -> Iterator[Result]:
    """Give the result of the usual tile and of each of warpgroups, perhaps by tensor maps, for each size."""
    tiles = ConvTiles(device, "bf16", tf32=False)
    by_warpgroups = [number for number, (*_, warpgroups) in enumerate(tiles.shapes) if warpgroups]
    for size in SIZES:
        usual = tiles.usual(size)
        trial = Trial(tiles, size, usual, mapped=mapped)
        values = [
            one.view(trial.images, SIDE, SIDE, channels).permute(0, 3, 1, 2)
            for one, channels in ((trial.source, size.in_channels), (trial.output, size.out_channels))
        ]
        truth = float64(values[0], trial.weight.to(values[0].dtype), size.kernel // 2)
        what = f"{size.kernel}x{size.kernel}, {size.in_channels} to {size.out_channels}"
        for tile in (usual, *by_warpgroups):

            def run(tile: int = tile, trial: Trial = trial) -> Tensor:
                with suppress(UnfitError):  # the first time, where the bits are not the usual ones
                    trial.run(tile)
                return trial.output

            run().fill_(torch.nan)
            same = torch.equal(run(), trial.right)
            *_, maps = trial.plans[tile]
            kernel = tiles.name(tile) + ", mapped" * (maps is not None)
            yield found(what, kernel, some(values[1]), truth, same, run, device)


def training(device: torch.device) -> Iterator[Result]:
    """Give the results of passes by warps and by warpgroups, for each shape."""
    for shape in SHAPES:
        passes = bench_conv_train.Passes(bench_conv_train.SHAPES[shape], torch.bfloat16, device.type)
        truths = {
            "forward": float64(passes.x, passes.rounded, passes.padding),
            "grad_input": float64(passes.grad, passes.rounded, passes.padding, transposed=True),
            "grad_weight": some(float64_grad_weight(passes)),
        }
        for which, truth in truths.items():
            usual = None
            for kernel in ("warps", "warpgroups"):
                run = passes.native(which, warpgroups=kernel == "warpgroups")
                result = run()
                usual = result.clone() if usual is None else usual
                result.fill_(torch.nan)
                same = torch.equal(run(), usual)
                yield found(f"{shape}, {which}", kernel, some(result), truth, same, run, device)


def some(values: Tensor) -> Tensor:
    """Return those images of [N, C, H, W], or filters, whose values are compared."""
    half = COMPARED // 2
    return values if len(values) <= COMPARED else torch.cat([values[:half], values[-half:]])


def float64(x: Tensor, weight: Tensor, padding: int, *, transposed: bool = False) -> Tensor:
    """Return PyTorch's convolution of `some` images in float64, or its gradient of the input."""
    convolution = F.conv_transpose2d if transposed else F.conv2d
    return convolution(some(x).double(), weight.double(), padding=padding)


def float64_grad_weight(passes: bench_conv_train.Passes) -> Tensor:
    """Return PyTorch's gradient of the weight in float64, a sum over all images."""
    return torch.nn.grad.conv2d_weight(
        passes.x.double(), passes.weight.shape, passes.grad.double(), padding=passes.padding
    )


def found(
    what: str,
    kernel: str,
    result: Tensor,
    truth: Tensor,
    same: bool,
    run: Callable[[], object],
    device: torch.device,
) -> Result:
    """Return the result of a kernel, after timing its run."""
    errors = relative_error(result, truth), element_error(result, truth)
    return Result(what, kernel, *errors, same, 1e3 * seconds_of(run, device))


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of a run; on a GPU, of those in a CUDA graph of many."""
    timed, repeats = repeated(run, device.type)
    timed()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        timed()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / repeats


if __name__ == "__main__":
    main()
