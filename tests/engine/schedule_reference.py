"""What csrc/include/lasfast/schedule.h says, word by word in PyTorch, behind the compiled module's interface.

Addresses are read as the compiled module reads them, so that lowering, workspaces and the layout of records
are tested without it. Operations of one level run in reverse, since no order among them is promised, and
arenas begin full of NaN.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

KINDS = [
    "input",
    "conv2d",
    "max_pool",
    "avg_pool",
    "global_pool",
    "combine",
    "linear",
    "gate",
    "arrange",
    "opaque",
]
INPUT, CONV2D, MAX_POOL, AVG_POOL, GLOBAL_POOL, COMBINE, LINEAR, GATE, ARRANGE, OPAQUE = range(10)
ACTIVATIONS = [lambda x: x, F.relu, F.relu6, F.hardswish, F.silu, torch.sigmoid, F.hardsigmoid]
STORAGES = [torch.float32, torch.bfloat16]

VALUE = np.dtype([("channels", "i4"), ("height", "i4"), ("width", "i4"), ("shared", "i4"), ("offset", "i8")])
NORM = np.dtype([("channels", "i4"), ("offset", "i4"), ("eps", "f4"), ("reserved", "i4")])
NAMES = (
    "kind level input other output leaf kernel stride padding groups input_norm input_activation other_norm "
    "other_activation output_norm activation statistics out_channels first tile"
)
OPERATION = np.dtype([*((name, "i4") for name in NAMES.split()), ("weight", "i8"), ("bias", "i8")])


ScheduleTables = SimpleNamespace
kinds = {name: number for number, name in enumerate(KINDS)}
records = {"Value": VALUE, "Norm": NORM, "Operation": OPERATION}


def at(address, shape, dtype):
    """The tensor that lies at an address."""
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).view(shape)


def records_at(address, count, dtype):
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype)


def image_shape(tables):
    first = records_at(tables.operations, 1, OPERATION)[0]
    value = records_at(tables.values, tables.value_count, VALUE)[first["output"]]
    return tuple(int(value[name]) for name in ("channels", "height", "width"))


def weight_shape(op, value):
    if op["kind"] == LINEAR:
        return (op["out_channels"], value["channels"] * value["height"] * value["width"], 1, 1)
    return (op["out_channels"], value["channels"] // op["groups"], op["kernel"], op["kernel"])


def schedule_packed_bytes(operation, input_value, storage, isa):
    op, value = records_at(operation, 1, OPERATION)[0], records_at(input_value, 1, VALUE)[0]
    return 4 * int(np.prod(weight_shape(op, value)))


def schedule_pack(operation, input_value, storage, isa, weight, weight_stride, packed):
    op, value = records_at(operation, 1, OPERATION)[0], records_at(input_value, 1, VALUE)[0]
    shape = weight_shape(op, value)
    reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, weight_stride, strict=True))
    source = at(weight, (int(reach),), torch.float32).as_strided(tuple(map(int, shape)), weight_stride)
    assert packed % 64 == 0
    at(packed, shape, torch.float32).copy_(source.to(STORAGES[storage]))


def schedule_scratch_bytes(tables, storage, isa, images, threads, calibration):
    return 64 * threads


class Pass:
    """Some images' way through a range of operations: `first` is the number of the first of them."""

    def __init__(self, tables, storage, first, own, shared):
        self.tables, self.dtype, self.first = tables, STORAGES[storage], first
        self.values = records_at(tables.values, tables.value_count, VALUE)
        self.norms = records_at(tables.norms, tables.norm_count, NORM) if tables.norm_count else []
        self.operations = records_at(tables.operations, tables.operation_count, OPERATION)
        self.own, self.shared = own, shared

    def table(self, name, norm):
        record = self.norms[norm]
        address = getattr(self.tables, name) + 4 * int(record["offset"])
        assert record["offset"] + record["channels"] <= self.tables.channel_count
        return at(address, (int(record["channels"]),), torch.float32)

    def value(self, number, images):
        """[images, channels, height, width] of a value at rest, a view of the arena."""
        value = self.values[number]
        assert value["offset"] % 32 == 0
        c, h, w = (int(value[name]) for name in ("channels", "height", "width"))
        (arena, capacity), first = (self.shared, self.first) if value["shared"] else (self.own, 0)
        start, size = int(value["offset"]) * capacity, h * w * c
        assert start + capacity * size <= arena.numel()
        start += first * size
        return arena[start : start + images * size].view(images, h, w, c).permute(0, 3, 1, 2)

    def seen(self, x, norm, activation):
        if norm >= 0:
            scale, shift = self.table("scale", norm), self.table("shift", norm)
            x = x * scale[:, None, None] + shift[:, None, None]
        return ACTIVATIONS[activation](x)

    def run(self, op, images, logits):
        """Compute one operation for images [N, C, H, W], fp32; logits [N, classes] is where a leaf goes."""
        count = len(images)
        if op["kind"] == INPUT:
            assert op["input"] == -1
            y, other = images, None
        else:
            x = self.operand(op, "input", count)
            other = self.operand(op, "other", count) if op["other"] >= 0 else None
            if op["kind"] in (GATE, ARRANGE):
                y, other = self.combine_channels(op, x, other), None
            else:
                y = self.operate(op, x)
        if op["bias"] >= 0:
            channels = int(op["out_channels"])
            assert op["bias"] + channels <= self.tables.bias_count
            y = y + at(self.tables.biases + 4 * int(op["bias"]), (channels, 1, 1), torch.float32)
        if op["statistics"] >= 0:
            assert op["output_norm"] < 0
            assert other is None
            assert op["activation"] == 0
            assert logits is None
            self.take_statistics(op["statistics"], y)
        y = self.seen(y, op["output_norm"], 0)
        if other is not None:
            y = y + F.pad(other, (0, 0, 0, 0, 0, y.shape[1] - other.shape[1]))
        y = ACTIVATIONS[op["activation"]](y)
        assert y.shape[1] == op["out_channels"]
        assert op["first"] == 0 or op["kind"] == ARRANGE
        if op["leaf"] >= 0:
            assert op["output"] == -1
            logits[op["leaf"]] = y.flatten(1)
        else:
            output = self.value(op["output"], count)
            assert output.shape == y.shape
            output.copy_(y)

    def operand(self, op, name, images):
        x = self.value(op[name], images).float()
        return self.seen(x, op[f"{name}_norm"], op[f"{name}_activation"])

    def combine_channels(self, op, x, other):
        """A gate or an arrangement."""
        if op["kind"] == GATE:
            assert other.shape == (*x.shape[:2], 1, 1)
            return x * other
        x = x if other is None else torch.cat((x, other), 1)
        order = torch.arange(x.shape[1]).view(int(op["groups"]), -1).t().flatten()
        first = int(op["first"])
        return x[:, order[first : first + int(op["out_channels"])]]

    def operate(self, op, x):
        kernel, stride, padding = (int(op[name]) for name in ("kernel", "stride", "padding"))
        if op["kind"] in (CONV2D, LINEAR):
            value = self.values[op["input"]]
            shape = tuple(map(int, weight_shape(op, value)))
            assert op["weight"] % 64 == 0
            assert op["weight"] + 4 * np.prod(shape) <= self.tables.weight_bytes
            weight = at(self.tables.weights + int(op["weight"]), shape, torch.float32)
            if op["kind"] == LINEAR:
                return F.conv2d(x.flatten(1)[:, :, None, None], weight)
            return F.conv2d(x, weight, None, stride, padding, groups=int(op["groups"]))
        if op["kind"] == MAX_POOL:
            return F.max_pool2d(x, kernel, stride, padding)
        if op["kind"] == AVG_POOL:
            return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)
        if op["kind"] == GLOBAL_POOL:
            return x.mean((2, 3), keepdim=True)
        assert op["kind"] == COMBINE
        return x

    def take_statistics(self, norm, y):
        y = y.double()
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        eps = float(self.norms[norm]["eps"])
        scale = self.table("gamma", norm) / (variance + eps).sqrt()
        self.table("mean", norm).copy_(mean)
        self.table("variance", norm).copy_(variance)
        self.table("scale", norm).copy_(scale)
        self.table("shift", norm).copy_(self.table("beta", norm) - mean * scale)


def arena_at(address, size, storage, *, fresh):
    dtype = STORAGES[storage]
    assert address % 64 == 0
    arena = at(address, (size // dtype.itemsize,), dtype)
    return arena.fill_(float("nan")) if fresh else arena


def batch_at(tables, address, images):
    shape = (images, *image_shape(tables))
    if not tables.pixels:
        return at(address, shape, torch.float32)
    pixels, channels = at(tables.pixels, (shape[1], 256), torch.float32), torch.arange(shape[1])
    return pixels[channels[:, None, None], at(address, shape, torch.uint8).long()]


def native_range(tables, operations):
    first, last = operations
    chosen = records_at(tables.operations, tables.operation_count, OPERATION)[first:last]
    assert (chosen["kind"] != OPAQUE).all()
    return chosen


def schedule_calibrate(
    tables, storage, isa, threads, operations, images_nchw, images, arena, arena_bytes, scratch
):
    own = arena_at(arena, arena_bytes, storage, fresh=operations[0] == 0), images
    run = Pass(tables, storage, 0, own, None)
    assert not run.values["shared"].any()
    batch = batch_at(tables, images_nchw, images)
    chosen = native_range(tables, operations)
    assert (np.diff(chosen["level"]) >= 0).all()
    for level in np.unique(chosen["level"]):
        for op in chosen[chosen["level"] == level][::-1]:
            run.run(op, batch, None)


def schedule_predict(
    tables,
    storage,
    isa,
    threads,
    operations,
    images_nchw,
    images,
    block,
    shared_arena,
    shared_bytes,
    arenas,
    arena_bytes,
    scratch,
    logits,
):
    every = records_at(tables.operations, tables.operation_count, OPERATION)
    batch = batch_at(tables, images_nchw, images)
    leaves = every[every["leaf"] >= 0]
    outputs = at(logits, (len(leaves), images, int(leaves["out_channels"][0])), torch.float32)
    assert arena_bytes % 64 == 0
    shared = None
    if shared_arena:
        shared = arena_at(shared_arena, shared_bytes, storage, fresh=operations[0] == 0), images
    for number, start in enumerate(range(0, images, block)):
        address = arenas + number % threads * arena_bytes
        own = arena_at(address, arena_bytes, storage, fresh=True), block
        run = Pass(tables, storage, start, own, shared)
        for op in native_range(tables, operations):
            run.run(op, batch[start : start + block], outputs[:, start : start + block])
