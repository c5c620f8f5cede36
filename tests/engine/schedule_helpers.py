"""Schedules that tests build by hand, and the PyTorch expressions that they are compared with."""

from __future__ import annotations

import importlib
from operator import itemgetter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine.cuda_layout import CALIBRATION, MAPPED, PREDICTION
from lasfast.engine.schedule import Kind, norm_fields, operation_fields, records, value_fields
from lasfast.runtime import compiled
from tests.isas import ISAS as CPU_ISAS

FORWARD, REVERSED = -1, -2
CUDA = {"cuda": FORWARD, "cuda reversed": REVERSED}
"""CUDA's kernels on the host, with blocks and threads in either order; tests know them by these numbers."""
ISAS = (*CPU_ISAS, *CUDA)
STORAGES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ACTIVATIONS = [lambda x: x, F.relu, F.relu6, F.hardswish, F.silu, torch.sigmoid, F.hardsigmoid]
NONE, RELU, RELU6, HARDSWISH, SWISH, SIGMOID, HARDSIGMOID = range(7)


def isa_number(name: str) -> int:
    if name in CUDA:
        try:
            importlib.import_module("lasfast._emulated").set_reversed(CUDA[name] == REVERSED)
        except ImportError:
            pytest.skip("lasfast._emulated is not built (LASFAST_EMULATE=ON)")
        return CUDA[name]
    if not compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    if name not in compiled.load().isas_supported():
        pytest.skip(f"this machine or build has no {name}")
    return compiled.load().isa_names().index(name)


def aligned(count: int, dtype: torch.dtype, fill: float | None = None) -> Tensor:
    """Return exactly `count` elements at a 64-byte boundary, so that sanitizers see an overrun."""
    tensor = torch.empty(count, dtype=dtype)
    assert tensor.data_ptr() % 64 == 0
    return tensor if fill is None else tensor.fill_(fill)


class Schedule:
    """A schedule to which tests add values, norms and operations; no two values share memory."""

    tile = 0

    def __new__(cls, isa: int, storage: str = "fp32") -> Schedule:
        return super().__new__(CudaSchedule if isa < 0 else cls)

    def __init__(self, isa: int, storage: str = "fp32") -> None:
        self.isa, self.storage = isa, storage
        self.dtype = STORAGES[storage]
        self.number = list(STORAGES).index(storage)
        self.values: list[dict] = []
        self.norms: list[dict] = []
        self.operations: list[dict] = []
        self.weights: list[Tensor] = []
        self.weight_bytes = 0
        self.biases = torch.zeros(0)
        self.tables = torch.zeros(6, 0)  # gamma, beta, scale, shift, mean, variance
        self.arena_elements = 0
        self.pixels: Tensor | None = None  # [channels, 256] if images are bytes
        self.module = compiled.load()

    def value(self, channels: int, height: int = 1, width: int = 1) -> int:
        self.values.append(value_fields(channels, height, width, offset=self.arena_elements))
        self.arena_elements += -(-self.pitch(channels) * height * width // 32) * 32
        return len(self.values) - 1

    @staticmethod
    def pitch(channels: int) -> int:
        """Return the number of elements from one position of a value to the next."""
        return channels

    def norm(self, channels: int, generator: torch.Generator, eps: float = 1e-5) -> int:
        offset = self.tables.shape[1]
        columns = torch.full((6, channels), torch.nan)
        columns[:4] = torch.randn(4, channels, generator=generator)
        self.tables = torch.cat((self.tables, columns), 1)
        self.norms.append(norm_fields(channels, offset=offset, eps=eps))
        return len(self.norms) - 1

    def affine(self, norm: int, x: Tensor) -> Tensor:
        if norm < 0:
            return x
        channels, offset = itemgetter("channels", "offset")(self.norms[norm])
        scale, shift = self.tables[2:4, offset : offset + channels].view(2, 1, channels, 1, 1).to(x.dtype)
        return x * scale + shift

    def add(self, kind: Kind, input: int, output: int, weight: Tensor | None = None, **fields: object) -> int:
        op = operation_fields(kind, level=len(self.operations), input=input, output=output)
        op["out_channels"] = self.values[output]["channels"] if output >= 0 else -1
        bias = fields.pop("bias", None)
        op |= fields
        if kind in (Kind.CONV2D, Kind.LINEAR) and op["groups"] == 1:
            op["tile"] = self.tile
        if isinstance(bias, Tensor):
            op["bias"] = len(self.biases)
            self.biases = torch.cat((self.biases, bias))
        if weight is not None:
            record, value = records("Operation", [op]), records("Value", [self.values[input]])
            packed = self.pack(record.ctypes.data, value.ctypes.data, weight)
            op["weight"] = self.weight_bytes
            self.weight_bytes += len(packed)
            self.weights.append(packed)
        self.operations.append(op)
        return len(self.operations) - 1

    def pack(self, operation: int, value: int, weight: Tensor) -> Tensor:
        arguments = (operation, value, self.number, self.isa)
        size = self.module.schedule_packed_bytes(*arguments)
        assert size > 0
        assert size % 64 == 0
        packed = aligned(size, torch.uint8)
        self.module.schedule_pack(*arguments, weight.data_ptr(), weight.stride(), packed.data_ptr())
        return packed

    def native(self, **changes: int) -> object:
        """Return the tables; self keeps the memory that they point to."""
        self.packed = torch.cat([*self.weights, torch.zeros(0, dtype=torch.uint8)])
        assert self.packed.data_ptr() % 64 == 0
        self.arrays = (
            records("Value", self.values),
            records("Norm", self.norms),
            records("Operation", self.operations),
        )
        self.tables = self.tables.contiguous()
        names = ("gamma", "beta", "scale", "shift", "mean", "variance")
        rows = {name: row.data_ptr() for name, row in zip(names, self.tables, strict=True)}
        values, norms, operations = self.arrays
        arguments = dict(
            values=values.ctypes.data,
            value_count=len(values),
            norms=norms.ctypes.data,
            norm_count=len(norms),
            operations=operations.ctypes.data,
            operation_count=len(operations),
            weights=self.packed.data_ptr(),
            weight_bytes=self.weight_bytes,
            biases=self.biases.data_ptr(),
            bias_count=len(self.biases),
            channel_count=self.tables.shape[1],
            pixels=0 if self.pixels is None else self.pixels.data_ptr(),
            **rows,
        )
        return self.module.ScheduleTables(**arguments | changes)

    def read(self, value: int, images: int) -> Tensor:
        channels, height, width, offset = itemgetter("channels", "height", "width", "offset")(
            self.values[value]
        )
        begin, pitch = offset * images, self.pitch(channels)
        flat = self.arena[begin : begin + images * pitch * height * width]
        return flat.view(images, height, width, pitch)[..., :channels].permute(0, 3, 1, 2).float()

    def predict(
        self,
        images: Tensor,
        block: int | None = None,
        threads: int = 1,
        ranges: list[tuple[int, int]] | None = None,
    ) -> Tensor:
        """Return logits [leaves, images, classes]; after a single block, `read` returns values."""
        leaves = [op for op in self.operations if op["leaf"] >= 0]
        classes = leaves[0]["out_channels"] if leaves else 1
        logits = torch.full((max(1, len(leaves)), len(images), classes), torch.nan)
        block, tables = block or len(images), self.native()
        size = self.module.schedule_scratch_bytes(tables, self.number, self.isa, block, threads, False)
        scratch = aligned(size, torch.uint8, 255)
        itemsize = self.dtype.itemsize
        arena = -(-self.arena_elements * block * itemsize // 64) * 64
        self.arena = aligned(threads * arena // itemsize, self.dtype, torch.nan)
        self.shared = aligned(self.arena_elements * len(images), self.dtype, torch.nan)
        shared = any(value["shared"] for value in self.values)
        for operations in ranges or [(0, len(self.operations))]:
            self.module.schedule_predict(
                tables,
                self.number,
                self.isa,
                threads,
                operations,
                images.data_ptr(),
                len(images),
                block,
                self.shared.data_ptr() if shared else 0,
                self.shared.nbytes if shared else 0,
                self.arena.data_ptr(),
                arena,
                scratch.data_ptr(),
                logits.data_ptr(),
            )
        return logits

    def calibrate(
        self, images: Tensor, threads: int = 1, ranges: list[tuple[int, int]] | None = None
    ) -> None:
        tables = self.native()
        size = self.module.schedule_scratch_bytes(tables, self.number, self.isa, len(images), threads, True)
        scratch = aligned(size, torch.uint8, 255)
        self.arena = aligned(self.arena_elements * len(images), self.dtype, torch.nan)
        for operations in ranges or [(0, len(self.operations))]:
            self.module.schedule_calibrate(
                tables,
                self.number,
                self.isa,
                threads,
                operations,
                images.data_ptr(),
                len(images),
                self.arena.data_ptr(),
                self.arena.nbytes,
                scratch.data_ptr(),
            )

    def images(self, x: Tensor) -> int:
        value = self.value(*x.shape[1:])
        self.add(Kind.INPUT, -1, value)
        return value


class CudaSchedule(Schedule):
    """A schedule for the module in which CUDA's kernels run on the host."""

    tf32 = False
    mapped = False
    """If true, predictions copy by tensor maps where they can."""

    def __init__(self, isa: int, storage: str = "fp32") -> None:
        super().__init__(isa, storage)
        self.module = importlib.import_module("lasfast._emulated")

    @staticmethod
    def pitch(channels: int) -> int:
        return -(-channels // 8) * 8

    def pack(self, operation: int, value: int, weight: Tensor) -> Tensor:
        size = self.module.schedule_packed_bytes_cuda(operation, value, self.number)
        assert size > 0
        assert size % 64 == 0
        packed = aligned(size, torch.uint8, 255)
        weights = [(operation, value, weight.data_ptr(), weight.stride(), packed.data_ptr())]
        self.module.schedule_pack_cuda(weights, self.number, self.tf32, 0, 0)
        return packed

    def predict(self, images: Tensor, block: int | None = None, threads: int = 1) -> Tensor:
        leaves = [op for op in self.operations if op["leaf"] >= 0]
        classes = leaves[0]["out_channels"] if leaves else 1
        logits = torch.full((max(1, len(leaves)), len(images), classes), torch.nan)
        block = block or len(images)
        plan = self.plan(block, calibration=False)
        for start in range(0, len(images), block):
            self.run(plan, images[start : start + block], logits[:, start:])
        return logits

    def calibrate(self, images: Tensor, threads: int = 1) -> None:
        self.run(self.plan(len(images), calibration=True), images, torch.zeros(1, 1, 1))

    def plan(self, images: int, calibration: bool) -> Tensor:
        tables, purpose = self.native(), CALIBRATION if calibration else MAPPED if self.mapped else PREDICTION
        size = self.module.schedule_plan_bytes_cuda(tables, self.number, images, purpose)
        plan = aligned(max(8, size), torch.uint8, 255)
        self.module.schedule_plan_cuda(tables, self.number, self.tf32, images, purpose, plan.data_ptr())
        arena, scratch, *_ = self.module.schedule_needs_cuda(plan.data_ptr())
        assert arena <= self.arena_elements * images * self.dtype.itemsize
        self.arena = aligned(self.arena_elements * images, self.dtype, torch.nan)
        self.scratch = aligned(scratch, torch.uint8, 255)
        return plan

    def run(self, plan: Tensor, images: Tensor, logits: Tensor, /, **changes: int) -> None:
        """Run all images; write their logits to the first images of `logits` [leaves, images, classes]."""
        images, on_device = images.contiguous(), plan.clone()
        _, _, levels, _, map_bytes = self.module.schedule_needs_cuda(plan.data_ptr())
        tables, maps = self.native(), aligned(map_bytes, torch.uint8, 255)
        if map_bytes:
            arena = self.arena.data_ptr()
            self.module.schedule_maps_cuda(tables, plan.data_ptr(), arena, 0, maps.data_ptr())
        call = {
            "plan": plan.data_ptr(),
            "device_plan": on_device.data_ptr(),
            "images": images.data_ptr(),
            "count": len(images),
            "first_level": 0,
            "last_level": levels - 1,
            "arena": self.arena.data_ptr(),
            "scratch": self.scratch.data_ptr(),
            "logits": logits.data_ptr(),
            "logit_images": logits.stride(0) // logits.stride(1),
            "device": 0,
            "stream": 0,
            "maps": maps.data_ptr(),
        }
        self.module.schedule_run_cuda(tables, **call | changes)


def relative(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-30))


def agrees(ours: Tensor, truth: Tensor, theirs: Tensor, storage: str, slack: float = 2e-3) -> None:
    """Assert an error of at most 1e-5 in fp32, and of at most twice that of PyTorch's bf16 in bf16."""
    assert ours.shape == truth.shape
    bound = 1e-5 if storage == "fp32" else 2 * relative(theirs, truth) + slack
    assert relative(ours, truth) <= bound


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# images, in, out, height, width, kernel, stride, padding
CONVOLUTIONS = {
    "3x3 16": (3, 16, 16, 32, 32, 3, 1, 1),
    "3x3 32 to 48": (2, 32, 48, 16, 16, 3, 1, 1),
    "3x3 64 on 8": (5, 64, 64, 8, 8, 3, 1, 1),
    "3x3 odd": (4, 19, 37, 9, 7, 3, 1, 1),
    "3x3 stride 2": (3, 16, 32, 17, 14, 3, 2, 1),
    "3x3 stride 2 wide": (3, 40, 24, 15, 16, 3, 2, 1),
    "stem": (2, 3, 16, 32, 32, 3, 1, 1),
    "stem stride 2": (2, 3, 24, 33, 31, 7, 2, 3),
    "one channel": (2, 1, 5, 8, 8, 3, 1, 1),
    "four channels": (2, 4, 8, 11, 9, 5, 1, 0),
    "5x5 few": (3, 12, 20, 13, 11, 5, 1, 2),
    "5x5 stride 2 few": (3, 9, 20, 13, 11, 5, 2, 2),
    "2x2 few": (3, 10, 20, 8, 9, 2, 2, 0),
    "4x4 few": (3, 10, 20, 8, 9, 4, 3, 1),
    "7x7": (2, 24, 18, 12, 12, 7, 1, 3),
    "3x3 stride 4": (2, 10, 16, 13, 13, 3, 4, 1),
    "1x1": (3, 48, 100, 7, 7, 1, 1, 0),
    "1x1 few": (3, 8, 16, 5, 6, 1, 1, 0),
    "1x1 stride 2": (3, 16, 32, 9, 8, 1, 2, 0),
    "1x1 stride 2 padding": (2, 33, 17, 6, 6, 3, 2, 2),
    "one position": (20, 70, 33, 1, 1, 1, 1, 0),
    "2x2 image": (9, 64, 64, 2, 2, 3, 1, 1),
    "bands": (1, 64, 16, 60, 70, 3, 1, 1),
    "bands of few": (1, 3, 16, 150, 160, 3, 2, 1),
}


def convolution_agrees(
    x: Tensor, weight: Tensor, fusion: str, storage: str, isa: int, stride: int, padding: int, groups: int
) -> None:
    cout, _, kernel, _ = weight.shape
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(2)
    x = x.to(STORAGES[storage]).float()
    source = schedule.images(x)
    fields: dict = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
    bias = other = None
    if fusion in ("prologue", "everything"):
        fields |= {"input_norm": schedule.norm(x.shape[1], generator), "input_activation": RELU}
    if fusion in ("epilogue", "everything"):
        bias = randn(cout, seed=3)
        fields |= {"output_norm": schedule.norm(cout, generator), "activation": RELU}
    shape = F.conv2d(x[:1], weight, None, stride, padding, 1, groups).shape[1:]
    if fusion == "everything":
        # A second value has the output's size and fewer channels.
        fewer = min(x.shape[1], max(1, cout - 3))
        narrow = schedule.value(fewer, *shape[1:])
        other = randn(len(x), fewer, *shape[1:], seed=4).to(STORAGES[storage]).float()
        fields |= {
            "other": narrow,
            "other_norm": schedule.norm(fewer, generator),
            "other_activation": SIGMOID,
        }
    output = schedule.value(*shape)
    number = schedule.add(Kind.CONV2D, source, output, weight, bias=bias, **fields)
    run_with_other(schedule, x, other, fields.get("other"))
    op = schedule.operations[number]
    truth, theirs = (
        conv_expression(schedule, x, weight, bias, other, op, dtype)
        for dtype in (torch.float64, torch.bfloat16)
    )
    agrees(schedule.read(output, len(x)), truth, theirs, storage)


def conv_expression(schedule: Schedule, x, weight, bias, other, op, dtype):
    """Return what a convolution computes with all that is fused into it, in `dtype` throughout."""

    def affine(norm: int, v: Tensor) -> Tensor:
        return schedule.affine(norm, v.to(dtype))

    x = ACTIVATIONS[op["input_activation"]](affine(op["input_norm"], x))
    bias = None if bias is None else bias.to(dtype)
    y = F.conv2d(x, weight.to(dtype), bias, op["stride"], op["padding"], 1, op["groups"])
    y = affine(op["output_norm"], y)
    if other is not None:
        z = ACTIVATIONS[op["other_activation"]](affine(op["other_norm"], other))
        y = y + F.pad(z, (0, 0, 0, 0, 0, y.shape[1] - z.shape[1]))
    return ACTIVATIONS[op["activation"]](y)


def run_with_other(schedule: Schedule, x: Tensor, other: Tensor | None, value: int | None) -> None:
    """Predict in one block after writing `other` into `value`, which no operation makes.

    `predict` allocates the arena, so `other` is written where it allocates.
    """
    if other is None:
        schedule.predict(x)
        return
    original, channels = aligned, other.shape[1]
    rows = F.pad(other.permute(0, 2, 3, 1), (0, schedule.pitch(channels) - channels))

    def filled(count: int, dtype: torch.dtype, fill: float | None = None) -> Tensor:
        tensor = original(count, dtype, fill)
        if dtype == schedule.dtype and count == -(-schedule.arena_elements * len(x) // 32) * 32:
            begin = schedule.values[value]["offset"] * len(x)
            tensor[begin : begin + rows.numel()] = rows.reshape(-1).to(dtype)
        return tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "aligned", filled)
        schedule.predict(x)


def residual(schedule: Schedule, x: Tensor, calibration: bool) -> tuple[list[int], list[Tensor]]:
    """Add a small network with operations that share levels, a shortcut with fewer channels, and a leaf."""
    generator = torch.Generator().manual_seed(0)
    weights = [
        randn(16, 3, 3, 3, seed=1) / 5,
        randn(24, 16, 3, 3, seed=2) / 12,
        randn(24, 1, 3, 3, seed=3) / 3,
        randn(16, 16, 3, 3, seed=4) / 12,
        randn(10, 24, seed=5) / 5,
    ]
    norms = [schedule.norm(channels, generator) for channels in (16, 24, 24, 16)]
    source = schedule.images(x)
    height, width = x.shape[2:]
    half = (height + 1) // 2, (width + 1) // 2
    stem = schedule.value(16, height, width)
    wide, deep = schedule.value(24, *half), schedule.value(24, *half)
    same = schedule.value(16, height, width)
    statistics = [{"statistics": n} if calibration else {} for n in norms]
    window = {"kernel": 3, "padding": 1}
    levels = (1, 2, 2, 3)
    relu = {"input_norm": norms[0], "input_activation": RELU}
    schedule.add(Kind.CONV2D, source, stem, weights[0], **window, **statistics[0], level=levels[0])
    schedule.add(Kind.CONV2D, stem, wide, weights[1], **window, **relu, **statistics[1], stride=2, level=2)
    schedule.add(Kind.CONV2D, stem, same, weights[3], **window, **relu, **statistics[3], level=2)
    relu = {"input_norm": norms[1], "input_activation": RELU6}
    schedule.add(
        Kind.CONV2D,
        wide,
        deep,
        weights[2],
        **window,
        **relu,
        **statistics[2],
        groups=24,
        level=3,
        bias=randn(24, seed=6),
    )
    shortcut, total, pooled = schedule.value(16, *half), schedule.value(24, *half), schedule.value(24)
    schedule.add(Kind.MAX_POOL, same, shortcut, stride=2, input_norm=norms[3], level=3)
    schedule.add(Kind.COMBINE, deep, total, input_norm=norms[2], other=shortcut, activation=RELU, level=4)
    schedule.add(Kind.GLOBAL_POOL, total, pooled, level=5)
    schedule.add(Kind.LINEAR, pooled, -1, weights[4][:, :, None, None], out_channels=10, leaf=0, level=6)
    return norms, weights


def residual_reference(
    schedule: Schedule, x: Tensor, norms: list[int], weights: list[Tensor], dtype: torch.dtype
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Return the logits of `residual` with batch statistics, and these statistics by norm."""
    statistics = {}

    def norm(number: int, v: Tensor) -> Tensor:
        channels, offset, eps = itemgetter("channels", "offset", "eps")(schedule.norms[number])
        gamma, beta = schedule.tables[:2, offset : offset + channels].to(dtype)
        statistics[number] = v.mean((0, 2, 3)), v.var((0, 2, 3), correction=0)
        return F.batch_norm(v, None, None, gamma, beta, True, eps=eps)

    w = [v.to(dtype) for v in weights]
    stem = F.relu(norm(norms[0], F.conv2d(x.to(dtype), w[0], None, 1, 1)))
    wide = F.relu6(norm(norms[1], F.conv2d(stem, w[1], None, 2, 1)))
    same = norm(norms[3], F.conv2d(stem, w[3], None, 1, 1))
    deep = norm(norms[2], F.conv2d(wide, w[2], randn(24, seed=6).to(dtype), 1, 1, 1, 24))
    shortcut = F.pad(same[:, :, ::2, ::2], (0, 0, 0, 0, 0, 8))
    return F.linear(F.relu(deep + shortcut).mean((2, 3)), w[4]), statistics
