"""A network classifies image files, which are read as the images that it was evaluated on were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lasfast.data import DataError
from lasfast.data.decode import center_crop, in_threads, open_image, to_tensor
from lasfast.data.folder import labelled_files
from lasfast.deploy.card import ModelCard
from lasfast.deploy.formats import DeployedModel

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The classes that a network sees in an image file.

    Attributes:
        path: the file.
        label: the number of the class whose folder it is in; None where it is in no class's.
        probabilities: of the classes, float32 [classes].
    """

    path: str
    label: int | None
    probabilities: Tensor

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the `count` most probable classes with their probabilities, the most probable first."""
        values, classes = self.probabilities.topk(min(count, len(self.probabilities)))
        return list(zip(classes.tolist(), values.tolist(), strict=True))


def find_images(paths: Sequence[Path], classes: Sequence[str]) -> list[tuple[str, int | None]]:
    """Return files, and the images below folders, each with its label if it has one.

    Raises:
        FileNotFoundError: there is no such file or folder, which is named.
        ValueError: there is no image at all.
    """
    found: list[tuple[str, int | None]] = []
    for path in paths:
        if path.is_dir():
            found += labelled_files(path, classes)
        elif path.exists():
            found.append((str(path), None))
        else:
            raise FileNotFoundError(f"{path}: there is no such file or folder")
    if not found:
        raise ValueError(f"there is no image in {', '.join(map(str, paths))}")
    return found


def read_image(path: str, card: ModelCard) -> Tensor:
    """Return an image file as the card says, uint8 [C, H, W]; `DataError` where it cannot be read."""
    image = open_image(path, card.channels)
    return to_tensor(center_crop(image, card.image_size, card.crop_pct))


def classify(
    model: DeployedModel, images: Sequence[tuple[str, int | None]]
) -> Iterator[Prediction | DataError]:
    """Predict image files in batches; in place of one that cannot be read comes the error, which names it."""
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        read = in_threads(lambda one: read_image(one[0], model.card), part)
        batch = [one for one in read if isinstance(one, Tensor)]
        rows = iter(model(torch.stack(batch)).float().softmax(1) if batch else ())
        for (path, label), one in zip(part, read, strict=True):
            yield one if isinstance(one, DataError) else Prediction(path, label, next(rows))
