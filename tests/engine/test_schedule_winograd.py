"""A schedule's 3x3 convolutions by Winograd's algorithm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine.schedule import Kind
from lasfast.runtime import compiled
from tests.engine.schedule_helpers import (
    CPU_ISAS,
    RELU,
    Schedule,
    convolution_agrees,
    isa_number,
    randn,
    relative,
)
from tests.isas import BF16_ISAS

CASES = {  # images, in, out, height, width, padding
    "whole tiles": (3, 16, 32, 8, 16, 1),
    "parts of tiles": (4, 19, 37, 9, 7, 1),
    "one channel": (2, 1, 5, 8, 8, 1),
    "one vector too many": (2, 17, 33, 6, 6, 1),
    "many small images": (37, 8, 16, 3, 4, 1),
    "one position": (5, 24, 8, 1, 1, 1),
    "no padding": (3, 12, 20, 11, 10, 0),
    "one position without padding": (3, 12, 20, 3, 3, 0),
    "wide padding": (3, 12, 20, 6, 5, 2),
    "several strips": (1, 5, 9, 5, 75, 1),
    "several blocks": (1, 40, 24, 52, 46, 1),
    "far weights": (2, 208, 336, 9, 8, 1),
}


@pytest.fixture(params=[2, 4])
def side(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=CPU_ISAS)
def isa(request: pytest.FixtureRequest) -> int:
    return isa_number(request.param)


def skip_refused(isa: int, storage: str, side: int) -> None:
    """Skip what has no such way: tiles of AMX, and pairs with the errors of tiles of four."""
    name = compiled.load().isa_names()[isa]
    if storage == "bf16" and (name == "amx" or (name in BF16_ISAS and side == 4)):
        pytest.skip(f"{name} multiplies bf16 values otherwise")


@pytest.mark.parametrize("fusion", ["plain", "prologue", "epilogue", "everything"])
@pytest.mark.parametrize("case", CASES)
def test_it_agrees(
    case: str, fusion: str, side: int, storage: str, isa: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_refused(isa, storage, side)
    monkeypatch.setattr(Schedule, "tile", side)
    images, cin, cout, height, width, padding = CASES[case]
    x = randn(images, cin, height, width)
    weight = randn(cout + 3, cin + 2, 3, 3, seed=1)[:cout, :cin] / (cin * 9) ** 0.5
    convolution_agrees(x, weight, fusion, storage, isa, 1, padding, 1)


def convolved(x: Tensor, weight: Tensor, side: int, isa: int, storage: str = "fp32") -> Tensor:
    schedule = Schedule(isa, storage)
    schedule.tile = side
    source, output = schedule.images(x), schedule.value(len(weight), *x.shape[2:])
    schedule.add(Kind.CONV2D, source, output, weight, kernel=3, padding=1)
    schedule.predict(x)
    return schedule.read(output, len(x))


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_errors_are_few_times_those_of_pytorch(channels: int, side: int, isa: int) -> None:
    """Both errors are of fp32's rounding. The outer points that tiles of four need amplify it.

    PyTorch's is that in the engine's own layout: in the other, it adds up channels in blocks on some
    processors, and errs less there.
    """
    x, weight = randn(2, channels, 13, 16).relu(), randn(channels, channels, 3, 3, seed=1)
    truth = F.conv2d(x.double(), weight.double(), padding=1)
    theirs = relative(F.conv2d(x.to(memory_format=torch.channels_last), weight, padding=1), truth)
    assert relative(convolved(x, weight, side, isa), truth) <= {2: 2, 4: 4}[side] * theirs


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_errors_of_bf16_are_few_times_those_of_pytorch(channels: int, side: int, isa: int) -> None:
    """Both round the output, and weights where bf16 values are multiplied: here their transforms."""
    skip_refused(isa, "bf16", side)
    x = randn(2, channels, 13, 16).relu().bfloat16()
    weight = randn(channels, channels, 3, 3, seed=1)
    truth = F.conv2d(x.double(), weight.double(), padding=1)
    theirs = relative(F.conv2d(x, weight.bfloat16(), padding=1).double(), truth)
    assert relative(convolved(x.float(), weight, side, isa, "bf16"), truth) <= 2 * theirs


@pytest.mark.parametrize("channels", [15, 16, 17])
def test_a_missing_channel_of_a_pair_adds_nothing(channels: int) -> None:
    """Not even where what lay there before is not a number."""
    isa = isa_number("avx512_bf16")
    x, weight = randn(2, channels, 9, 9).bfloat16().float(), randn(20, channels, 3, 3, seed=1)
    spoiled = x.clone()
    spoiled[0] = torch.nan
    clean, other = (convolved(one, weight, 2, isa, "bf16") for one in (x, spoiled))
    assert torch.equal(clean[1], other[1])


def normalized(
    isa: int, side: int, x: Tensor, weights: list[Tensor], storage: str = "fp32", *, calibration: bool
) -> Schedule:
    """Return convolutions one after the other, each with a batch norm, a ReLU and the sum with its input."""
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(0)
    schedule.tile = side
    before, norm = schedule.images(x), -1
    for level, weight in enumerate(weights, start=1):
        following = schedule.norm(len(weight), generator)
        output = schedule.value(len(weight), *x.shape[2:])
        fields = {"kernel": 3, "padding": 1, "level": level}
        if calibration:
            fields |= {"input_norm": norm, "input_activation": RELU, "statistics": following}
        else:
            fields |= {"output_norm": following, "activation": RELU, "other": before}
        schedule.add(Kind.CONV2D, before, output, weight, **fields)
        before, norm = output, following
    pooled = schedule.value(len(weights[-1]))
    fields = {"input_norm": norm, "input_activation": RELU} if calibration else {}
    schedule.add(Kind.GLOBAL_POOL, before, pooled, level=len(weights) + 1, **fields)
    schedule.tile, head = 0, randn(10, len(weights[-1]), 1, 1, seed=9)
    schedule.add(Kind.LINEAR, pooled, -1, head, out_channels=10, leaf=0, level=len(weights) + 2)
    return schedule


WEIGHTS = [randn(20, 16, 3, 3, seed=1) / 12, randn(33, 20, 3, 3, seed=2) / 13]


def test_statistics_agree(side: int, isa: int) -> None:
    x = randn(23, 16, 9, 11) + 1
    schedule = normalized(isa, side, x, WEIGHTS, calibration=True)
    schedule.calibrate(x)
    v = x.double().relu()
    for weight, norm in zip(WEIGHTS, schedule.norms, strict=True):
        v = F.conv2d(v, weight.double(), padding=1)
        span = slice(norm["offset"], norm["offset"] + norm["channels"])
        gamma, beta, _, _, mean, variance = schedule.tables[:, span].double()
        assert relative(mean, v.mean((0, 2, 3))) <= 1e-5
        assert relative(variance, v.var((0, 2, 3), correction=0)) <= 1e-5
        v = F.batch_norm(v, None, None, gamma, beta, True, eps=norm["eps"]).relu()


def test_the_same_bits_whatever_the_threads_and_blocks(side: int, storage: str, isa: int) -> None:
    """No output depends on which tiles are multiplied together."""
    skip_refused(isa, storage, side)
    x = randn(23, 16, 9, 11)
    found = []
    for threads in (1, 2, 3):
        schedule = normalized(isa, side, x, WEIGHTS, storage, calibration=True)
        schedule.calibrate(x, threads)
        found.append(schedule.tables[2:].clone())
    assert all(torch.equal(one, found[0]) for one in found)
    schedule = normalized(isa, side, x, WEIGHTS, storage, calibration=False)
    logits = [schedule.predict(x, block, threads) for block, threads in ((23, 1), (4, 2), (1, 1), (7, 3))]
    assert all(torch.equal(one, logits[0]) for one in logits)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nonfinite_inputs_stay_in_their_image_and_tiles(value: float, side: int, isa: int) -> None:
    """Every output whose window has one is not finite; others of the same tile may become so, too."""
    x, weight = randn(3, 12, 16, 16), randn(20, 12, 3, 3, seed=1)
    x[1, 3, 9, 9] = value
    output = convolved(x, weight, side, isa)
    window = output[1, :, 8:11, 8:11]
    assert not window.isfinite().any()
    assert output[::2].isfinite().all()
    assert output[1, :, : 8 - side].isfinite().all()
    assert output[1, :, :, 8 + 2 * side :].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "storage", "text"),
    [
        ({"tile": 3}, "fp32", "tile is none of 0, 2 and 4"),
        ({"tile": -1}, "fp32", "tile is none of 0, 2 and 4"),
        ({"stride": 2}, "fp32", "no 3x3 convolution of one group and stride 1"),
        ({"kernel": 1}, "fp32", "no 3x3 convolution of one group and stride 1"),
        ({"groups": 8}, "fp32", "no 3x3 convolution of one group and stride 1"),
        ({"kind": Kind.MAX_POOL}, "fp32", "no 3x3 convolution of one group and stride 1"),
    ],
)
def test_what_it_does_not_compute_is_refused(changes: dict, storage: str, text: str) -> None:
    refused("generic", changes, storage, text)


@pytest.mark.parametrize(("isa", "tile"), [("amx", 2), ("amx", 4), ("avx512_bf16", 4)])
def test_bf16_values_that_are_multiplied_otherwise_are_refused(isa: str, tile: int) -> None:
    refused(isa, {"tile": tile}, "bf16", "other products of bf16 values")


def refused(isa: str, changes: dict, storage: str, text: str) -> None:
    """Check that neither a pass nor its scratch is offered."""
    schedule, x = Schedule(isa_number(isa), storage), randn(2, 8, 5, 5)
    source, output = schedule.images(x), schedule.value(8, 5, 5)
    schedule.add(Kind.CONV2D, source, output, randn(8, 8, 3, 3), kernel=3, padding=1)
    schedule.operations[-1] |= {"tile": 4, **changes}
    with pytest.raises(ValueError, match=text):
        schedule.predict(x)
    assert (
        schedule.module.schedule_scratch_bytes(schedule.native(), schedule.number, schedule.isa, 2, 1, False)
        == 0
    )


def test_a_weight_is_not_packed_for_what_it_does_not_compute() -> None:
    schedule, x = Schedule(isa_number("generic")), randn(2, 8, 5, 5)
    schedule.tile = 2
    source, output = schedule.images(x), schedule.value(8, 3, 3)
    with pytest.raises(AssertionError):
        schedule.add(Kind.CONV2D, source, output, randn(8, 8, 3, 3), kernel=3, padding=1, stride=2)
