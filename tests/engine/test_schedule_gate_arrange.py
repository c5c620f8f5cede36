"""A schedule's gates, which multiply channels, and arrangements, which move them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    ACTIVATIONS,
    HARDSIGMOID,
    HARDSWISH,
    NONE,
    RELU,
    SIGMOID,
    SWISH,
    Schedule,
    agrees,
    randn,
    relative,
)


def two_images(schedule: Schedule, channels: int, others: int, size: tuple[int, int]) -> tuple:
    """Return images, and two 1x1 convolutions of them: (number of the value, its truth in the storage)."""
    x = randn(3, 5, *size).to(schedule.dtype).float()
    source, made = schedule.images(x), []
    for count, seed in ((channels, 8), (others, 9)):
        value = schedule.value(count, *size)
        weight = randn(count, 5, 1, 1, seed=seed).to(schedule.dtype).float()
        schedule.add(Kind.CONV2D, source, value, weight)
        made.append((value, F.conv2d(x.double(), weight.double()).to(schedule.dtype)))
    return x, *made


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(16, (8, 8)), (37, (5, 7)), (3, (1, 1)), (130, (3, 13))])
def test_gates(channels: int, size: tuple[int, int], everything: bool, storage: str, isa: int) -> None:
    """Norm and activation are applied to both operands and to the product."""
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(1)
    x, (value, stored), _ = two_images(schedule, channels, 1, size)
    pooled, product = schedule.value(channels), schedule.value(channels, *size)
    schedule.add(Kind.GLOBAL_POOL, value, pooled)
    fields: dict = {"input_norm": -1, "input_activation": NONE, "other_norm": -1, "output_norm": -1}
    fields |= {"other_activation": HARDSIGMOID, "activation": NONE}
    if everything:
        fields |= {name: schedule.norm(channels, generator) for name in fields if name.endswith("norm")}
        fields |= {"input_activation": SWISH, "activation": HARDSWISH, "other_activation": SIGMOID}
    schedule.add(Kind.GATE, value, product, other=pooled, **fields)
    schedule.predict(x)
    gates = schedule.read(pooled, 3)

    def expression(dtype: torch.dtype) -> Tensor:
        y = ACTIVATIONS[fields["input_activation"]](schedule.affine(fields["input_norm"], stored.to(dtype)))
        z = ACTIVATIONS[fields["other_activation"]](schedule.affine(fields["other_norm"], gates.to(dtype)))
        return ACTIVATIONS[fields["activation"]](schedule.affine(fields["output_norm"], y * z))

    agrees(schedule.read(product, 3), expression(torch.float64), expression(torch.bfloat16), storage)


# channels of input and of other (0 if there is none), groups, first, channels of the output
ARRANGEMENTS = {
    "concat": (16, 24, 1, 0, 40),
    "concat odd": (13, 6, 1, 0, 19),
    "slice": (37, 0, 1, 9, 21),
    "slice of concat": (13, 20, 1, 5, 22),
    "shuffle": (58, 0, 2, 0, 58),
    "concat and shuffle": (24, 24, 2, 0, 48),
    "first half of a shuffle": (29, 29, 2, 0, 29),
    "second half of a shuffle": (29, 29, 2, 29, 29),
    "odd channels": (36, 0, 18, 18, 18),
    "of a shuffle in threes": (20, 13, 3, 4, 17),
    "one channel": (3, 3, 3, 4, 1),
    "many": (300, 277, 577, 100, 333),
}


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
@pytest.mark.parametrize("case", ARRANGEMENTS)
def test_arrangements(case: str, size: tuple[int, int], everything: bool, storage: str, isa: int) -> None:
    """Moved channels keep their bits; each source and the result may have norm and activation."""
    channels, others, groups, first, count = ARRANGEMENTS[case]
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(1)
    x, (one, stored), (two, other) = two_images(schedule, channels, max(1, others), size)
    result = schedule.value(count, *size)
    fields: dict = {"groups": groups, "first": first, "other": two if others else -1}
    norms = {"input_norm": -1, "other_norm": -1, "output_norm": -1}
    activations = {"input_activation": NONE, "other_activation": NONE, "activation": NONE}
    if everything:
        sizes = {"input_norm": channels, "other_norm": max(1, others), "output_norm": count}
        norms = {name: schedule.norm(sizes[name], generator) for name in norms}
        activations = {"input_activation": RELU, "other_activation": SIGMOID, "activation": HARDSWISH}
    schedule.add(Kind.ARRANGE, one, result, **fields, **norms, **activations)
    schedule.predict(x)

    def expression(dtype: torch.dtype) -> Tensor:
        parts = [(stored, "input"), (other, "other")][: 2 if others else 1]
        seen = [
            ACTIVATIONS[activations[f"{name}_activation"]](
                schedule.affine(norms[f"{name}_norm"], part.to(dtype))
            )
            for part, name in parts
        ]
        order = torch.arange(channels + others).view(groups, -1).t().flatten()[first : first + count]
        y = schedule.affine(norms["output_norm"], torch.cat(seen, 1)[:, order])
        return ACTIVATIONS[activations["activation"]](y)

    ours = schedule.read(result, 3)
    if everything:
        agrees(ours, expression(torch.float64), expression(torch.bfloat16), storage)
    else:
        source = torch.cat((schedule.read(one, 3), schedule.read(two, 3)), 1)
        order = torch.arange(channels + others).view(groups, -1).t().flatten()[first : first + count]
        assert torch.equal(ours, source[:, order])


@pytest.mark.parametrize("kind", [Kind.GATE, Kind.ARRANGE])
@pytest.mark.parametrize("channels", [16, 21])
def test_statistics_of_gates_and_arrangements(kind: Kind, channels: int, storage: str, isa: int) -> None:
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(1)
    x, (one, stored), (two, other) = two_images(schedule, channels, channels, (6, 9))
    norm = schedule.norm(channels if kind == Kind.GATE else 2 * channels, generator)
    if kind == Kind.GATE:
        pooled, result = schedule.value(channels), schedule.value(channels, 6, 9)
        schedule.add(Kind.GLOBAL_POOL, two, pooled)
        factors = other.double().mean((2, 3), keepdim=True).to(schedule.dtype)
        schedule.add(kind, one, result, other=pooled, other_activation=SIGMOID, statistics=norm)
        expected = stored.double() * factors.double().sigmoid()
    else:
        result = schedule.value(2 * channels, 6, 9)
        schedule.add(kind, one, result, other=two, groups=2, other_activation=RELU, statistics=norm)
        expected = F.channel_shuffle(torch.cat((stored, other.relu()), 1).double(), 2)
    for threads in (1, 2):
        schedule.calibrate(x, threads)
        mean, variance = schedule.tables[4:].double()
        bound = 1e-5 if storage == "fp32" else 0.01
        assert relative(variance, expected.var((0, 2, 3), correction=0)) <= bound
        assert (mean - expected.mean((0, 2, 3))).abs().max() <= bound * expected.std()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nonfinite_channels_stay_where_they_are(value: float, storage: str, isa: int) -> None:
    x = randn(4, 19, 3, 5)
    x[1, 7, 2, 2] = x[2, 18, 0, 0] = value
    schedule = Schedule(isa, storage)
    source = schedule.images(x)
    moved, pooled, gated = schedule.value(23, 3, 5), schedule.value(19), schedule.value(19, 3, 5)
    schedule.add(Kind.ARRANGE, source, moved, other=source, groups=2, first=9)
    schedule.add(Kind.GLOBAL_POOL, source, pooled)
    schedule.add(Kind.GATE, source, gated, other=pooled, other_activation=HARDSIGMOID)
    schedule.predict(x)
    for ours, truth in (
        (schedule.read(moved, 4), F.channel_shuffle(torch.cat((x, x), 1), 2)[:, 9:32]),
        (schedule.read(gated, 4), x * F.hardsigmoid(x.mean((2, 3), keepdim=True))),
    ):
        assert torch.equal(ours.isnan(), truth.isnan())
        assert torch.equal(ours.isposinf(), truth.isposinf())
