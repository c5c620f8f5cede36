"""The model card: what a file with a network says about it, as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lasfast._version import __version__
from lasfast.core.checks import as_int
from lasfast.data import Dataset
from lasfast.measurements.measurement import Measurement

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A description of a network in a file, by which others can use it.

    The network takes images uint8 [N, channels, height, width] with values from 0 to 255, gray or RGB, and
    gives logits float32 [N, classes]: it normalizes by itself.

    Attributes:
        architecture: the architecture, as its space writes it.
        supernet: the family of the network.
        weights: a text that says where the weights come from, such as "trained from scratch, 60 epochs".
        classes: the names of the classes, in the order of the logits.
        channels: 1 (gray) or 3 (RGB).
        image_size: (height, width) of the images.
        crop_pct: the share of the shorter side that the crop keeps, where images of other sizes are resized
            (bilinear) and center-cropped.
        mean, std: what each channel is normalized by, of values from 0 to 1; the graph does so.
        accuracy: `top1`, its `standard_error`, and the number of validation `images`; and `test_top1`,
            `test_standard_error` and `test_images`, where it was measured on the test split.
        costs: the costs by name, as `flops` (multiply-adds for one image) and `params`.
        run: the name of the run's directory.
        data: what identifies the dataset and its split.
        layers: the `name` of each layer in order, its `output` shape, `flops` and `params`; () where unknown.
        lasfast: the version that wrote the file.
    """

    architecture: str
    supernet: str
    weights: str
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    accuracy: Mapping[str, float]
    costs: Mapping[str, float]
    run: str
    data: Mapping[str, Any] = field(repr=False)
    layers: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    lasfast: str = __version__

    @classmethod
    def of(
        cls,
        data: Dataset,
        measurement: Measurement,
        *,
        architecture: str,
        supernet: str,
        weights: str,
        costs: Mapping[str, float],
        run: str,
        layers: Iterable[Mapping[str, Any]] = (),
        tested: Measurement | None = None,
    ) -> ModelCard:
        """Return the card of a network that was trained and measured on a dataset.

        `tested` is its measurement on the test split, if there is one.
        """
        accuracy = {} if tested is None else {f"test_{name}": one for name, one in _accuracy(tested).items()}
        return cls(
            architecture=architecture,
            supernet=supernet,
            weights=weights,
            classes=data.classes,
            channels=data.channels,
            image_size=data.image_size,
            crop_pct=data.crop_pct,
            mean=data.mean,
            std=data.std,
            accuracy=_accuracy(measurement) | accuracy,
            costs=dict(costs),
            run=run,
            data=data.describe(),
            layers=tuple(layers),
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        return (self.channels, *self.image_size)

    def to_text(self) -> str:
        """Return the card as JSON, with lines that tell people how images go in and what comes out."""
        colors = "gray" if self.channels == 1 else "RGB"
        told = {
            "format": FORMAT,
            "input": f"images uint8 [N, {', '.join(map(str, self.image_shape))}], 0 to 255, {colors}",
            "output": f"logits float32 [N, {len(self.classes)}]",
            "resize": "bilinear, so that the center crop is crop_pct of the shorter side",
        }
        return json.dumps(told | dataclasses.asdict(self), indent=1, allow_nan=False)

    @classmethod
    def of_text(cls, text: str) -> ModelCard:
        """Read what `to_text` wrote.

        Raises:
            ValueError: it is no card, or one of another version's format.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ValueError(f"its format must be {FORMAT}, got {values['format']}")
            fields = {one.name: values[one.name] for one in dataclasses.fields(cls)}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the model card cannot be read: {error!r}") from error
        tuples = {name: tuple(fields[name]) for name in ("classes", "image_size", "mean", "std", "layers")}
        return cls(**fields | tuples)


def _accuracy(measurement: Measurement) -> dict[str, float]:
    """Return what a card says of a measurement."""
    return {
        "top1": measurement.top1,
        "standard_error": measurement.standard_error,
        "images": as_int("images", measurement.images),
    }
