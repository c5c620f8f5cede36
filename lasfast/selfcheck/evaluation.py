"""Cases of evaluation: small supernets that together use every kernel of calibration and prediction."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lasfast import supernets
from lasfast.data.normalization import Normalization
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.backend import Backend
from lasfast.engine.native_backend import EXECUTORS
from lasfast.engine.scores import Scores
from lasfast.ir.layers import Path
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime.placement import device_of
from lasfast.runtime.seeds import torch_seed
from lasfast.selfcheck.case import Case, DisagreementError, multiplied_as, native_ways
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet

SIZE = 15  # pixels a side of the images
CLASSES = 7
NORMALIZATION = Normalization((0.4, 0.5, 0.1), (0.2, 0.25, 0.3))


class Medley(Supernet):
    """A supernet of what the families lack: a padded max-pooling, hard gates, averages, odd channels."""

    def __init__(self) -> None:
        super().__init__(LayerAssignmentSpace(1, 2), num_classes=CLASSES, in_channels=3)
        self.create_modules(self.path((2,)))

    def path(self, architecture: tuple[int, ...]) -> Path:
        """Return a stem, one or two blocks, and a classifier."""
        stem = LayerBuilder("stem", 3)
        stem.pool(stem.conv_bn_act("", stem.input, 37, 7, 2, kind="relu6"), "max", 3, 2, padding=1)
        blocks = []
        for index in range(architecture[0]):
            block = LayerBuilder(f"blocks.{index}", 37)
            y = block.conv_bn_act("1", block.input, 37, 5, groups=37, kind="hardswish")
            y = block.squeeze_excite("se", y, 9, kind="hardswish", gate="hardsigmoid")
            y = block.conv_bn("2", block.pool(y, "avg", 3, 1, padding=1), 37, 1)
            block.activation(block.add(y, block.input), "sigmoid")
            blocks.append(block.build())
        head = LayerBuilder("classifier", 37)
        head.linear("fc", head.global_avg_pool(head.input), CLASSES)
        return (stem.build(), *blocks, head.build())


class ShortShuffleNet(supernets.ShuffleNetV2):
    """A ShuffleNetV2 of six blocks; after its twenty, rounding to bf16 leaves nothing to compare."""

    repeats = (2, 2, 1, 1)


SMALL: dict[str, Any] = {"num_classes": CLASSES, "stem": "cifar", "width": 0.2}
NETS: dict[str, Callable[[], Supernet]] = {
    "ResidualNet": lambda: supernets.ResidualNet((2, 1, 1), CLASSES),
    "PlainNet": lambda: supernets.PlainNet((1, 2, 1), CLASSES, image_size=SIZE),
    "MobileNet": lambda: supernets.MobileNet("60M", **SMALL, squeeze_excite=True, activation="swish"),
    "ShuffleNetV2": lambda: ShortShuffleNet(**SMALL, search="both"),
    "pools and gates": Medley,
}


def evaluation_cases(device: torch.device) -> Iterator[Case]:
    """Give a case of each supernet in each precision, of some also on images that are bytes."""
    cuda = EXECUTORS[device.type].cuda
    for name, make in NETS.items():
        supernet = _made(make).to(device)
        for precision in ("fp32", "bf16", *(("TF32",) if cuda else ())):
            yield _case(name, supernet, precision, cuda, None)
            if name == "ResidualNet":
                yield _case(f"{name} of bytes", supernet, precision, cuda, NORMALIZATION)


def _case(
    name: str, supernet: Supernet, precision: str, cuda: bool, normalization: Normalization | None
) -> Case:
    device = device_of(supernet)
    tree = PrefixTree([supernet.path(architecture) for architecture in _architectures(supernet)])
    batches = _batches(33 if device.type == "cuda" else 9, device, normalization)

    def run(backend: type[Backend], stored: str, multiplied: str = "fp32") -> list[Tensor]:
        with multiplied_as(multiplied):
            return _logits(backend(supernet, stored, normalization=normalization), tree, *batches)

    stored = "bf16" if precision == "bf16" else "fp32"
    all_ways = {way: {"LASFAST_CHOICE": way} for way in ("levels", "resident", "resident alone")}
    return Case(
        f"{name}, {precision}",
        ours=partial(run, NativeBackend, stored, precision),
        truth=partial(run, TorchBackend, "fp32"),
        theirs=partial(run, TorchBackend, "bf16"),
        precision=precision,
        ways=all_ways if cuda else native_ways(cuda=False),
    )


def _logits(
    backend: Backend, tree: PrefixTree, calibration: Sequence[Tensor], images: Sequence[Tensor]
) -> list[Tensor]:
    """Return the logits [leaves, N, classes] of the first batch, which comes three times, and of the last."""
    statistics = backend.calibrate(tree, calibration, "cumulative")
    every = [
        torch.stack([outputs[leaf] for leaf in tree.leaves])
        for outputs in backend.predict_batches(tree, statistics, images)
    ]
    first, *recorded, last = every
    if isinstance(backend, NativeBackend):
        if not all(torch.equal(first, one) for one in recorded):
            raise DisagreementError("other bits when the batch comes again, as a CUDA graph on a GPU")
        if EXECUTORS[first.device.type].cuda:
            _check_scores(backend.score_batches(tree, statistics, _labelled(images)), every)
    return [first, last]


def _check_scores(ours: tuple[Tensor, Tensor], logits: Sequence[Tensor]) -> None:
    """Raise unless these are what PyTorch finds for the logits of labelled batches."""
    theirs = Scores()
    for one, labels in _labelled(logits, 1):
        theirs.add(one, labels)
    for what, found, expected in zip(("class ranks", "losses"), ours, theirs.result(), strict=True):
        if not torch.allclose(found, expected, rtol=1e-12, atol=1e-12):
            raise DisagreementError(f"other {what} than PyTorch's for the same logits")


def _labelled(batches: Sequence[Tensor], dim: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Give each batch, of which `dim` counts the images, with their labels."""
    for batch in batches:
        yield batch, torch.arange(batch.shape[dim], device=batch.device) % CLASSES


def _made(make: Callable[[], Supernet]) -> Supernet:
    """Return the supernet, with the same weights every time, those of batch norms included."""
    with torch_seed(0):
        supernet = make()
        for module in supernet.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return supernet


def _architectures(supernet: Supernet) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    drawn = [supernet.space.sample(rng) for _ in range(2)]
    largest = supernet.space.largest()
    return [*drawn, *([] if largest is None else [largest])]


def _batches(
    count: int, device: torch.device, normalization: Normalization | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return batches for calibration and for prediction: three of one size, and a smaller one."""
    generator = torch.Generator().manual_seed(1)
    sizes = (count, count, count, count - 2)

    def batch(images: int) -> Tensor:
        if normalization is not None:
            shape = (images, 3, SIZE, SIZE)
            return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
        return (torch.randn(images, 3, SIZE, SIZE, dtype=torch.float32, generator=generator) * 2 + 1).to(
            device
        )

    calibration, first, last = [batch(size) for size in sizes], batch(count), batch(count - 2)
    return calibration, [first, first, first, last]
