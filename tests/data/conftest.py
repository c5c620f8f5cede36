from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _write(folder: Path, count: int, size: tuple[int, int], mode: str, suffix: str, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number:03d}{suffix}")


@pytest.fixture
def make_classes(tmp_path: Path) -> Callable[..., Path]:
    """Write class folders of random images below a new folder: counts[i] images for class i."""

    def make(
        name: str,
        counts: Sequence[int] = (8, 8),
        size: tuple[int, int] = (8, 8),
        mode: str = "RGB",
        suffix: str = ".png",
        seed: int = 0,
    ) -> Path:
        for label, count in enumerate(counts):
            _write(tmp_path / name / f"class{label}", count, size, mode, suffix, seed * 100 + label)
        return tmp_path / name

    return make
