"""Every operation of a schedule against the PyTorch expression it stands for, on every instruction set.

CUDA's kernels are run on the host, with their blocks and threads in either order.
"""

from __future__ import annotations

import importlib
from operator import itemgetter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine.schedule import Kind, norm_fields, operation_fields, records, value_fields
from lasfast.runtime import compiled

CPU_ISAS = ("generic", "avx2", "avx512", "avx512_bf16", "amx")
ISAS = (*CPU_ISAS, "cuda", "cuda reversed")
ACTIVATIONS = [lambda x: x, F.relu, F.relu6, F.hardswish, F.silu, torch.sigmoid, F.hardsigmoid]
NONE, RELU, RELU6, HARDSWISH, SWISH, SIGMOID, HARDSIGMOID = range(7)
STORAGES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORWARD, REVERSED = -1, -2
CUDA = {"cuda": FORWARD, "cuda reversed": REVERSED}
"""Stand where numbers of instruction sets do."""


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> int:
    return isa_number(request.param)


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> str:
    return request.param


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
    """`count` elements at a 64-byte boundary, exactly as many as asked for, so that tools see an overrun."""
    tensor = torch.empty(count, dtype=dtype)
    assert tensor.data_ptr() % 64 == 0
    return tensor if fill is None else tensor.fill_(fill)


class Schedule:
    """Values, norms and operations, added one by one; no two values share memory."""

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
        self.pixels: Tensor | None = None  # [channels, 256], where images are bytes
        self.module = compiled.load()

    def value(self, channels: int, height: int = 1, width: int = 1) -> int:
        self.values.append(value_fields(channels, height, width, offset=self.arena_elements))
        self.arena_elements += -(-self.pitch(channels) * height * width // 32) * 32
        return len(self.values) - 1

    @staticmethod
    def pitch(channels: int) -> int:
        """Elements from one position of a value to the next."""
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
        """The tables; what they point to is kept alive by self."""
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
        """Logits [leaves, images, classes]; with one block, read() gives what values held."""
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
    """The same through the module in which CUDA's kernels run on the host."""

    tf32 = False

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
        where = weight.data_ptr(), weight.stride(), 0, 0, packed.data_ptr()
        self.module.schedule_pack_cuda(operation, value, self.number, *where)
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
        tables = self.native()
        size = self.module.schedule_plan_bytes_cuda(tables, self.number, images, calibration)
        plan = aligned(max(8, size), torch.uint8, 255)
        self.module.schedule_plan_cuda(tables, self.number, self.tf32, images, calibration, plan.data_ptr())
        arena, scratch, *_ = self.module.schedule_needs_cuda(plan.data_ptr())
        assert arena <= self.arena_elements * images * self.dtype.itemsize
        self.arena = aligned(self.arena_elements * images, self.dtype, torch.nan)
        self.scratch = aligned(scratch, torch.uint8, 255)
        return plan

    def run(self, plan: Tensor, images: Tensor, logits: Tensor, /, **changes: int) -> None:
        """Images in order; the first of `logits` [leaves, images, classes] are theirs."""
        images, on_device = images.contiguous(), plan.clone()
        _, _, levels, _ = self.module.schedule_needs_cuda(plan.data_ptr())
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
        }
        self.module.schedule_run_cuda(self.native(), **call | changes)


def relative(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-30))


def agrees(ours: Tensor, truth: Tensor, theirs: Tensor, storage: str, slack: float = 2e-3) -> None:
    """fp32 within 1e-5; bf16 no more than twice as far from the truth as PyTorch's own bf16."""
    assert ours.shape == truth.shape
    bound = 1e-5 if storage == "fp32" else 2 * relative(theirs, truth) + slack
    assert relative(ours, truth) <= bound


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv_expression(schedule: Schedule, x, weight, bias, other, op, dtype):
    """op(...) and all that follows, in `dtype` throughout."""

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


@pytest.mark.parametrize("fusion", ["plain", "prologue", "epilogue", "everything"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: str, fusion: str, storage: str, isa: int) -> None:
    images, cin, cout, height, width, kernel, stride, padding = CONVOLUTIONS[case]
    x = randn(images, cin, height, width)
    weight = randn(cout + 3, cin + 2, kernel, kernel, seed=1)[:cout, :cin] / (cin * kernel**2) ** 0.5
    convolution_agrees(x, weight, fusion, storage, isa, stride, padding, 1)


@pytest.mark.parametrize("fusion", ["plain", "everything"])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride"),
    [
        (16, (8, 8), 3, 1),
        (37, (9, 12), 3, 2),
        (96, (14, 14), 5, 1),
        (24, (15, 13), 7, 2),
        (5, (4, 1), 1, 1),
        (64, (70, 40), 3, 1),
    ],
)
def test_depthwise(
    channels: int, size: tuple[int, int], kernel: int, stride: int, fusion: str, storage: str, isa: int
) -> None:
    x, weight = randn(3, channels, *size), randn(channels, 1, kernel, kernel, seed=1) / kernel
    convolution_agrees(x, weight, fusion, storage, isa, stride, kernel // 2, channels)


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
        # A second value of the output's size and fewer channels, from an average of the images' corner.
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


def run_with_other(schedule: Schedule, x: Tensor, other: Tensor | None, value: int | None) -> None:
    """Predict in one block, where `value` is given and not made by any operation.

    Threads fill their arenas themselves, so one pass over a copying schedule puts it there first.
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


@pytest.mark.parametrize("kind", ["floats", "bytes"])
@pytest.mark.parametrize(("channels", "more"), [(1, 0), (3, 0), (3, 2), (9, 8)])
def test_images(channels: int, more: int, kind: str, storage: str, isa: int) -> None:
    """Copied, or looked up in the table of their channel, to the bit; further channels are zero."""
    schedule = Schedule(isa, storage)
    x = truth = randn(5, channels, 3, 7)
    if kind == "bytes":
        x = torch.randint(256, x.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        x[0, 0, 0, :2] = torch.tensor([0, 255])
        schedule.pixels = randn(channels, 256, seed=2)
        truth = schedule.pixels[torch.arange(channels)[:, None, None], x.long()]
    value = schedule.value(channels + more, 3, 7)
    schedule.add(Kind.INPUT, -1, value, out_channels=channels)
    schedule.predict(x)
    expected = F.pad(truth.to(STORAGES[storage]).float(), (0, 0, 0, 0, 0, more))
    assert torch.equal(schedule.read(value, 5), expected)
    # From there on, blocks of images come out as all at once.
    weight = randn(4, (channels + more) * 21, 1, 1, seed=3)
    schedule.add(Kind.LINEAR, value, -1, weight, out_channels=4, leaf=0)
    logits = schedule.predict(x)
    assert torch.equal(schedule.predict(x, block=2, threads=2), logits)
    truth, theirs = (
        expected.flatten(1).to(dtype) @ weight.flatten(1).T.to(dtype)
        for dtype in (torch.float64, torch.bfloat16)
    )
    agrees(logits[0], truth, theirs, storage)


@pytest.mark.parametrize("activation", range(1, len(ACTIVATIONS)))
@pytest.mark.parametrize("channels", [3, 16, 37])
def test_combine(channels: int, activation: int, storage: str, isa: int) -> None:
    """Norm, activation and sum of values at rest; activations over all magnitudes, infinities and NaN."""
    x = torch.linspace(-120, 120, 2 * channels * 77).view(2, channels, 7, 11)[..., torch.randperm(11)]
    x[0, 0, 0, :4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])
    x = x.to(STORAGES[storage]).float()
    schedule = Schedule(isa, storage)
    source = schedule.images(x)
    output = schedule.value(channels, 7, 11)
    schedule.add(Kind.COMBINE, source, output, activation=activation)
    schedule.predict(x)
    ours, truth = schedule.read(output, 2), ACTIVATIONS[activation](x)
    torch.testing.assert_close(
        ours, truth, equal_nan=True, rtol=2e-6 if storage == "fp32" else 0.004, atol=1e-36
    )
    # The same sum, with all four parts.
    generator = torch.Generator().manual_seed(1)
    x = randn(2, channels, 7, 11).to(STORAGES[storage]).float()
    fields = {"input_norm": schedule.norm(channels, generator), "input_activation": activation}
    fields |= {"other": source, "other_norm": schedule.norm(channels, generator), "other_activation": RELU6}
    fields |= {"output_norm": schedule.norm(channels, generator), "activation": HARDSWISH}
    result = schedule.value(channels, 7, 11)
    schedule.add(Kind.COMBINE, source, result, **fields)
    schedule.predict(x)
    truth, theirs = (
        combine_expression(schedule, x.to(dtype), fields) for dtype in (torch.float64, torch.bfloat16)
    )
    agrees(schedule.read(result, 2), truth, theirs, storage)


def combine_expression(schedule: Schedule, x: Tensor, fields: dict) -> Tensor:
    y = ACTIVATIONS[fields["input_activation"]](schedule.affine(fields["input_norm"], x))
    z = ACTIVATIONS[fields["other_activation"]](schedule.affine(fields["other_norm"], x))
    return ACTIVATIONS[fields["activation"]](schedule.affine(fields["output_norm"], y) + z)


@pytest.mark.parametrize("kind", [Kind.MAX_POOL, Kind.AVG_POOL, Kind.GLOBAL_POOL])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride", "padding"),
    [(16, (8, 9), 2, 2, 0), (21, (11, 7), 3, 2, 1), (64, (5, 5), 3, 1, 1), (5, (6, 4), 1, 2, 0)],
)
def test_pools(
    kind: Kind, channels: int, size: tuple, kernel: int, stride: int, padding: int, storage: str, isa: int
) -> None:
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(1)
    x = randn(3, channels, *size).to(STORAGES[storage]).float()
    norms = schedule.norm(channels, generator), schedule.norm(channels, generator)

    def expression(dtype: torch.dtype) -> Tensor:
        y = F.relu(schedule.affine(norms[0], x.to(dtype)))
        if kind == Kind.MAX_POOL:
            y = F.max_pool2d(y, kernel, stride, padding)
        elif kind == Kind.AVG_POOL:
            y = F.avg_pool2d(y, kernel, stride, padding, count_include_pad=False)
        else:
            y = y.mean((2, 3), keepdim=True)
        return F.hardswish(schedule.affine(norms[1], y))

    truth = expression(torch.float64)
    source, output = schedule.images(x), schedule.value(*truth.shape[1:])
    schedule.add(
        kind,
        source,
        output,
        kernel=kernel,
        stride=stride,
        padding=padding,
        input_norm=norms[0],
        input_activation=RELU,
        output_norm=norms[1],
        activation=HARDSWISH,
    )
    schedule.predict(x)
    agrees(schedule.read(output, 3), truth, expression(torch.bfloat16), storage)


@pytest.mark.parametrize(
    ("channels", "size", "classes"),
    [(64, (1, 1), 10), (37, (1, 1), 100), (16, (4, 3), 17), (130, (2, 2), 1000)],
)
@pytest.mark.parametrize("count", [1, 21])
def test_linear_leaves(
    channels: int, size: tuple[int, int], classes: int, count: int, storage: str, isa: int
) -> None:
    """Leaves are fp32 whatever the storage, and flattening goes in torch's order."""
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(1)
    features = channels * size[0] * size[1]
    x = randn(count, channels, *size).to(STORAGES[storage]).float()
    weights = [randn(classes, features, seed=s) / features**0.5 for s in (2, 3)]
    bias, norm = randn(classes, seed=4), schedule.norm(channels, generator)
    source = schedule.images(x)
    for leaf, weight in enumerate(weights):
        schedule.add(
            Kind.LINEAR,
            source,
            -1,
            weight[:, :, None, None],
            out_channels=classes,
            leaf=1 - leaf,
            bias=bias,
            input_norm=norm,
            input_activation=SWISH,
        )
    ours = schedule.predict(x)
    for leaf, weight in enumerate(weights):
        truth, theirs = (
            F.linear(F.silu(schedule.affine(norm, x.to(dtype))).flatten(1), weight.to(dtype), bias.to(dtype))
            for dtype in (torch.float64, torch.bfloat16)
        )
        agrees(ours[1 - leaf], truth, theirs, storage)


def two_images(schedule: Schedule, channels: int, others: int, size: tuple[int, int]) -> tuple:
    """Images, and the values of two 1x1 convolutions of them, which are rounded as the storage says."""
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
    """Both operands are seen through norm and activation, the product too."""
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


# channels of input and other (0: none), groups, first, channels of the output
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
    """Channels moved are the same bits; each source, and the result, may have norm and activation."""
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


BINARIES = {
    "gate's size": ({"kind": Kind.GATE, "other": 0}, "not one factor for each channel"),
    "no gate": ({"kind": Kind.GATE}, "not one factor for each channel"),
    "groups": ({"groups": 3}, "groups does not divide"),
    "no groups": ({"groups": 0}, "groups does not divide"),
    "first": ({"first": -1}, "beyond those of its sources"),
    "last": ({"first": 5}, "beyond those of its sources"),
    "other's size": ({"other": 1}, "other does not fit"),
    "other": ({"other": 9}, "other is no value"),
    "size": ({"input": 1}, "differ in size"),
    "overlap": ({"output": 0}, "overlaps its input"),
    "norm": ({"input_norm": 0}, "norm's channels"),
    "other's norm": ({"other": 0, "other_norm": 0}, "norm's channels"),
}


@pytest.mark.parametrize("case", BINARIES)
def test_bad_gates_and_arrangements_are_refused(case: str) -> None:
    changes, text = BINARIES[case]
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("generic"))
    schedule.norm(8, torch.Generator())
    source, pooled, output = schedule.images(x), schedule.value(4), schedule.value(4, 5, 5)
    schedule.add(Kind.GLOBAL_POOL, source, pooled)
    number = schedule.add(Kind.ARRANGE, source, output)
    schedule.predict(x)
    schedule.operations[number] |= changes
    with pytest.raises(ValueError, match=text):
        schedule.predict(x)


def residual(schedule: Schedule, x: Tensor, calibration: bool) -> tuple[list[int], list[Tensor]]:
    """A small network with everything in it: two levels of sisters, a shortcut of fewer channels, leaves."""
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
    """What residual() computes, each norm by the batch's own statistics; and the statistics."""
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


@pytest.mark.parametrize("size", [(32, 32), (9, 15)])
def test_calibration_then_prediction(size: tuple[int, int], storage: str, isa: int) -> None:
    """Statistics are those of the batch, the scale and shift that they give make prediction right."""
    x = randn(19, 3, *size).to(STORAGES[storage]).float() + 1
    schedule = Schedule(isa, storage)
    norms, weights = residual(schedule, x, True)
    schedule.tables[2:] = torch.nan
    schedule.calibrate(x)
    truth, statistics = residual_reference(schedule, x, norms, weights, torch.float64)
    theirs, _ = residual_reference(schedule, x, norms, weights, torch.bfloat16)
    bound = 1e-5 if storage == "fp32" else 0.01
    for number in norms:
        channels, offset = itemgetter("channels", "offset")(schedule.norms[number])
        gamma, beta, scale, shift, mean, variance = schedule.tables[:, offset : offset + channels].double()
        expected_mean, expected_variance = statistics[number]
        assert (mean - expected_mean).abs().max() <= bound * expected_variance.sqrt().max()
        assert relative(variance, expected_variance) <= bound
        torch.testing.assert_close(scale, gamma / (variance + 1e-5).sqrt(), rtol=1e-6, atol=0)
        torch.testing.assert_close(shift, beta - mean * scale, rtol=1e-5, atol=1e-6)
    for op in schedule.operations:
        op["statistics"] = -1
    # A mean over many positions leaves little of theirs, which is luck.
    agrees(schedule.predict(x)[0], truth, theirs, storage, slack=5e-3)


def test_the_same_bits_whatever_the_threads_and_blocks(storage: str, isa: int) -> None:
    x = randn(23, 3, 14, 14)
    results = []
    for threads in (1, 2, 3):
        schedule = Schedule(isa, storage)
        residual(schedule, x, True)
        schedule.calibrate(x, threads)
        results.append(schedule.tables[2:].clone())
    assert all(torch.equal(result, results[0]) for result in results)
    for op in schedule.operations:
        op["statistics"] = -1
    logits = [schedule.predict(x, block, threads) for block, threads in ((23, 1), (4, 2), (1, 1), (7, 3))]
    assert all(torch.equal(one, logits[0]) for one in logits)


@pytest.mark.parametrize("isa", CPU_ISAS, indirect=True)
@pytest.mark.parametrize("cuts", [(3,), (1, 2, 2, 5, 8), (0, 4, 9)])
def test_the_same_bits_in_one_range_and_in_several(cuts: tuple[int, ...], storage: str, isa: int) -> None:
    """What operations of several ranges touch is shared; threads are at different images of it."""
    x = randn(23, 3, 14, 14)
    results, logits = [], []
    for several in (False, True):
        schedule = Schedule(isa, storage)
        residual(schedule, x, True)
        count = len(schedule.operations)
        ranges = list(zip((0, *cuts), (*cuts, count), strict=True)) if several else None
        schedule.calibrate(x, 2, ranges)
        results.append(schedule.tables[2:].clone())
        for op in schedule.operations:
            op["statistics"] = -1
        for value in range(len(schedule.values)) if several else ():
            touching = [
                number
                for number, op in enumerate(schedule.operations)
                if value in (op["input"], op["other"], op["output"])
            ]
            crosses = len({sum(number >= cut for cut in cuts) for number in touching}) > 1
            schedule.values[value]["shared"] = crosses
        logits.append(schedule.predict(x, 4, 3, ranges))
    assert any(value["shared"] for value in schedule.values)
    assert torch.equal(*results)
    assert torch.equal(*logits)


def test_statistics_do_not_cancel(isa: int) -> None:
    """A mean a thousand deviations from zero leaves the variance right."""
    x = randn(6, 4, 20, 20) + 1000
    schedule = Schedule(isa)
    source, output = schedule.images(x), schedule.value(4, 20, 20)
    number = schedule.norm(4, torch.Generator())
    schedule.add(Kind.CONV2D, source, output, torch.eye(4)[:, :, None, None], statistics=number)
    schedule.calibrate(x)
    exact = x.double().var((0, 2, 3), correction=0)
    assert relative(schedule.tables[5], exact) <= 1e-4


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("channels", "kernel", "stride"), [(3, 3, 1), (16, 3, 1), (16, 5, 2), (40, 3, 1)])
def test_nonfinite_inputs_come_out_as_torchs_do(
    channels: int, kernel: int, stride: int, value: float, storage: str, isa: int
) -> None:
    """Only the outputs whose window holds it change, and to what they are in PyTorch."""
    x, weight = randn(5, channels, 9, 10), randn(20, channels, kernel, kernel, seed=1)
    x[1, -1, 4, 5] = value
    x[2, 0, 0, 9] = value
    schedule = Schedule(isa, storage)
    expected = F.conv2d(x, weight, None, stride, 1)
    source, output = schedule.images(x), schedule.value(*expected.shape[1:])
    schedule.add(
        Kind.CONV2D, source, output, weight, kernel=kernel, stride=stride, padding=1, activation=RELU
    )
    pooled = F.max_pool2d(expected.relu(), 2, 1)
    largest = schedule.value(*pooled.shape[1:])
    schedule.add(Kind.MAX_POOL, output, largest, kernel=2)
    schedule.predict(x)
    for ours, truth in ((schedule.read(output, 5), expected.relu()), (schedule.read(largest, 5), pooled)):
        assert torch.equal(ours.isnan(), truth.isnan())
        assert torch.equal(ours.isposinf(), truth.isposinf())


REFUSED = {
    "kind": ({"kind": 99}, "kind is unknown"),
    "activation": ({"activation": 7}, "activation is unknown"),
    "input": ({"input": 7}, "input is no value"),
    "output": ({"output": -1}, "neither a value nor a leaf"),
    "overlap": ({"output": 0, "out_channels": 4, "padding": 1}, "overlaps its input"),
    "kernel": ({"kernel": 12}, "kernel is not between"),
    "stride": ({"stride": 0}, "stride is below"),
    "padding": ({"padding": 3}, "padding is not below"),
    "size": ({"padding": 1}, "does not follow"),
    "out_channels": ({"out_channels": 7}, "out_channels is not its value's"),
    "groups": ({"groups": 2}, "groups is neither"),
    "weight": ({"weight": -1}, "weight is missing"),
    "weight alignment": ({"weight": 32}, "weight is missing, misaligned"),
    "weight end": ({"weight": 1 << 20}, "beyond the packed weights"),
    "bias": ({"bias": 3}, "bias is beyond"),
    "norm": ({"input_norm": 4}, "norm that does not exist"),
    "norm channels": ({"input_norm": 0}, "norm's channels"),
    "other": ({"other": 9}, "other is no value"),
    "other shape": ({"other": 0}, "does not fit"),
    "statistics": ({"statistics": 0}, "takes no statistics"),
    "level": ({"level": 2}, "level is not below"),
    "leaf": ({"leaf": 0}, "neither a value nor a leaf"),
    "opaque": ({"kind": Kind.OPAQUE}, "run by the caller"),
    "opaque activation": ({"kind": Kind.OPAQUE, "activation": 1}, "reads and writes plain values"),
    "first": ({"first": 1}, "only an arrangement has a first channel"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_operations_are_refused(case: str) -> None:
    changes, text = REFUSED[case]
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("generic"))
    schedule.norm(8, torch.Generator())
    source, output = schedule.images(x), schedule.value(8, 3, 3)
    number = schedule.add(Kind.CONV2D, source, output, randn(8, 4, 3, 3), kernel=3, level=1)
    schedule.predict(x)
    schedule.operations[number] |= changes
    tables = schedule.native()
    fits = case == "opaque"  # but not in the range that is asked for
    assert (schedule.module.schedule_scratch_bytes(tables, 0, 0, 2, 1, False) > 0) == fits
    with pytest.raises(ValueError, match=text):
        schedule.predict(x)


def test_tf32_rounds_inputs_and_weights_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    isa = isa_number("cuda")
    monkeypatch.setattr(CudaSchedule, "tf32", True)
    x, weight = randn(2, 19, 9, 7), randn(37, 19, 3, 3, seed=1)
    for values, bound in ((x, 1e-3), (x.bfloat16().float(), 1e-6)):
        rounded = weight if bound == 1e-3 else weight.bfloat16().float()
        schedule = Schedule(isa)
        source, output = schedule.images(values), schedule.value(37, 9, 7)
        schedule.add(Kind.CONV2D, source, output, rounded, kernel=3, padding=1)
        schedule.predict(values)
        truth = F.conv2d(values.double(), rounded.double(), padding=1)
        assert relative(schedule.read(output, 2), truth) <= bound


def test_bad_cuda_calls_are_refused() -> None:
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("cuda"))
    source, output = schedule.images(x), schedule.value(8, 3, 3)
    schedule.add(Kind.CONV2D, source, output, randn(8, 4, 3, 3), kernel=3)
    schedule.add(Kind.GLOBAL_POOL, output, -1, leaf=0, out_channels=8)
    plan, logits, zeros = schedule.plan(2, calibration=False), torch.zeros(1, 2, 8), torch.zeros(64)
    schedule.run(plan, x, logits)
    for changes, text in (
        ({"plan": 0}, "plan is missing"),
        ({"plan": zeros.data_ptr()}, "plan is none"),
        ({"device_plan": 0}, "device's plan or the images"),
        ({"images": 0}, "device's plan or the images"),
        ({"count": 3}, "number of images"),
        ({"count": 0}, "number of images"),
        ({"first_level": 2, "last_level": 1}, "levels are not among"),
        ({"last_level": 3}, "levels are not among"),
        ({"arena": schedule.arena.data_ptr() + 4}, "not aligned"),
        ({"logits": 0}, "logits are missing"),
        ({"logit_images": 1}, "logits are missing"),
    ):
        with pytest.raises(ValueError, match=text):
            schedule.run(plan, x, logits, **changes)
    with pytest.raises(RuntimeError, match="device cannot be used"):
        schedule.run(plan, x, logits, device=1)
    schedule.values[0] = value_fields(4, 1 << 15, 1 << 16)  # too many positions for one launch
    schedule.values[1] = value_fields(8, (1 << 15) - 2, (1 << 16) - 2, offset=1 << 40)
    assert schedule.module.schedule_plan_bytes_cuda(schedule.native(), 0, 2, False) == 0
    with pytest.raises(RuntimeError, match="fewer images"):
        schedule.module.schedule_plan_cuda(schedule.native(), 0, False, 2, False, plan.data_ptr())


def test_the_same_bits_in_several_ranges_of_levels(storage: str) -> None:
    """An opaque operation has a level of its own, which the caller runs."""
    x = randn(23, 3, 14, 14)
    schedule = Schedule(isa_number("cuda"), storage)
    residual(schedule, x, False)
    expected = schedule.predict(x)
    plan, logits = schedule.plan(23, calibration=False), torch.full((1, 23, 10), torch.nan)
    for first, last in ((0, 0), (1, 3), (4, 6)):
        schedule.run(plan, x, logits, first_level=first, last_level=last)
    assert torch.equal(logits, expected)
    schedule.operations[-2]["kind"] = Kind.OPAQUE
    plan = schedule.plan(23, calibration=False)
    schedule.run(plan, x, logits, last_level=4)
    with pytest.raises(ValueError, match="run by the caller"):
        schedule.run(plan, x, logits, first_level=5, last_level=5)


@pytest.mark.parametrize("count", [1, 5, 23])
def test_a_plan_is_good_for_fewer_images(count: int, storage: str) -> None:
    """With fewer images, some blocks of a launch have nothing to do."""
    x = randn(23, 3, 14, 14)
    schedule = Schedule(isa_number("cuda"), storage)
    residual(schedule, x, False)
    expected = schedule.predict(x)
    plan, logits = schedule.plan(23, calibration=False), torch.full((1, 30, 10), torch.nan)
    schedule.run(plan, x[:count], logits)
    assert torch.equal(logits[:, :count], expected[:, :count])
    assert logits[:, count:].isnan().all()


def test_bad_calls_are_refused() -> None:
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("generic"))
    source, output = schedule.images(x), schedule.value(8, 3, 3)
    schedule.add(Kind.CONV2D, source, output, randn(8, 4, 3, 3), kernel=3)
    schedule.predict(x)
    scratch, logits = aligned(1 << 20, torch.uint8), torch.zeros(1)
    arena = schedule.arena

    def predict(tables: object = None, **changes: int) -> None:
        call = {
            "storage": 0,
            "isa": 0,
            "threads": 1,
            "operations": (0, 2),
            "images_nchw": x.data_ptr(),
            "images": 2,
            "block": 2,
            "shared_arena": 0,
            "shared_bytes": 0,
            "arenas": arena.data_ptr(),
            "arena_bytes": arena.nbytes,
            "scratch": scratch.data_ptr(),
            "logits": logits.data_ptr(),
        }
        schedule.module.schedule_predict(tables or schedule.native(), **call | changes)

    predict()
    for changes, text in (
        ({"storage": 2}, "storage"),
        ({"threads": 0}, "threads"),
        ({"operations": (-1, 2)}, "not within them"),
        ({"operations": (1, 0)}, "not within them"),
        ({"operations": (0, 3)}, "not within them"),
        ({"shared_arena": arena.data_ptr() + 4, "shared_bytes": 64}, "not aligned"),
        ({"block": 0}, "at least one image"),
        ({"images": -1}, "number of images"),
        ({"images_nchw": 0}, "images or logits"),
        ({"logits": 0}, "images or logits"),
        ({"arenas": arena.data_ptr() + 4}, "not aligned"),
        ({"scratch": 0}, "missing or not aligned"),
        ({"arena_bytes": arena.nbytes // 128 * 64}, "beyond the arena"),
        ({"arena_bytes": -1}, "beyond the arena"),
    ):
        with pytest.raises(ValueError, match=text):
            predict(**changes)
    with pytest.raises(RuntimeError, match="lacks the instruction set"):
        predict(isa=99)
    schedule.values[output] = value_fields(8, 3, 3, shared=True)
    with pytest.raises(ValueError, match="beyond the arena"):
        predict(schedule.native())
    shared = aligned(2 * 72, torch.float32)
    predict(schedule.native(), shared_arena=shared.data_ptr(), shared_bytes=shared.nbytes)
    with pytest.raises(ValueError, match="beyond the arena"):
        predict(schedule.native(), shared_arena=shared.data_ptr(), shared_bytes=shared.nbytes - 4)
    with pytest.raises(ValueError, match="shares no value"):
        schedule.calibrate(x)
    schedule.values[output] = value_fields(8, 3, 3) | {"shared": 2}
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        predict(schedule.native())
    schedule.values[output] = value_fields(8, 3, 3, offset=128)
    for changes, text in (
        ({"values": 0}, "table is missing"),
        ({"operation_count": 0}, "table is missing"),
        ({"value_count": 1}, "neither a value"),
        ({"weights": 0}, "weight is missing"),
        ({"weight_bytes": 64}, "beyond the packed weights"),
    ):
        with pytest.raises(ValueError, match=text):
            predict(schedule.native(**changes))
