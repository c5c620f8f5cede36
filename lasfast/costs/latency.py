"""Latency: a table has the seconds of each layer on some machine, and a network's latency is their sum.

`lasfast.latency` measures the tables; this module reads them, and runs nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any

from lasfast.constraints import UnknownCostError
from lasfast.core.checks import as_finite
from lasfast.core.files import atomic_write_json
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Path, Shape, path_shapes


@dataclass
class LatencyTable:
    """The seconds that each layer takes for a batch of images, by what the layer computes.

    A network takes `overhead + scale * sum` seconds, where the sum is over its layers.

    Attributes:
        name: the machine's name in the cost `latency@NAME`.
        settings: how the layers were run: backend, precision, batch, threads, device.
        machine: the machine that they were run on (`lasfast.runtime.machine.gather`).
        seconds: the seconds of each layer, by `layer_key`.
        overhead, scale: the line, in seconds, that was fitted to the latencies of whole networks.
        path: the file that the table was read from, or is written to.
    """

    name: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    overhead: float = 0.0
    scale: float = 1.0
    path: FilePath | None = None

    def __call__(self, path: Path, input_shape: Shape) -> float:
        """Return the seconds of a network on a batch of images of shape (channels, height, width).

        Raises:
            UnknownCostError: a layer was not timed.
        """
        return self.overhead + self.scale * self.sum(path, input_shape)

    def sum(self, path: Path, input_shape: Shape) -> float:
        """Return the sum of the seconds of a path's layers; UnknownCostError where one was not timed."""
        total = 0.0
        for layer, shapes in path_shapes(path, input_shape):
            seconds = self.seconds.get(layer_key(layer, shapes[0]))
            if seconds is None:
                options = " ".join(f"--{name} {self.settings[name]}" for name in ("backend", "batch"))
                raise UnknownCostError(
                    f"latency@{self.name}: layer {layer.name!r} on a value of shape {shapes[0]} was not "
                    f"timed; time it with `lasfast latency build --table {self.path} {options}` and the "
                    "supernet's options, or with lasfast.latency.build"
                )
            total += seconds
        return total

    def save(self) -> None:
        """Write the table to its file, atomically."""
        assert self.path is not None
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "path"}
        atomic_write_json(self.path, values)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table from its file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file, which the message names, is damaged.
        """
        path = FilePath(path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such table of latencies; `lasfast latency build` makes one")
        try:
            table = cls(**json.loads(path.read_text(encoding="utf-8")), path=path)
            for name, value in {"overhead": table.overhead, "scale": table.scale, **table.seconds}.items():
                if as_finite(name, value) < 0 and name != "overhead":
                    raise ValueError(f"{name} must not be negative, got {value}")
            if not isinstance(table.name, str) or not {"backend", "batch"} <= set(table.settings):
                raise ValueError("its name or its settings are missing")
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no table of latencies ({error}); restore it, or delete it and build it again"
            ) from error
        return table


@lru_cache(maxsize=65536)
def layer_key(layer: Layer, input_shape: Shape) -> str:
    """Return text that says what a layer computes on an input: layers that differ only in names share it."""
    return f"{'x'.join(map(str, input_shape))}: " + "; ".join(map(_op_key, layer.ops))


def _op_key(op: Op) -> str:
    # The name of an opaque module says what it computes; other names only say which weights an op reads.
    unnamed = () if isinstance(op, layers.Opaque) else ("module", "tensors")
    values = [
        f"{one.name}={getattr(op, one.name)}"
        for one in dataclasses.fields(op)
        if one.name not in unnamed and getattr(op, one.name) != one.default
    ]
    return f"{type(op).__name__}({', '.join(values)})"
