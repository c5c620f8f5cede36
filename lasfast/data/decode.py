"""Decoding of image files to uint8 tensors, in threads (the decoders release the interpreter lock).

A file that cannot be read, or differs from the others, raises a ``DataError`` that names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lasfast.data.errors import DataError

Size = tuple[int, int]  # height, width
Item = TypeVar("Item")
Result = TypeVar("Result")

GRAY_MODES = ("1", "L", "LA")
COLOR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
RESIZE = 256 / 224  # before a center crop, the shorter side is this much longer than the crop
_SHOWN = 5


class Header(NamedTuple):
    """The size and kind of an image, which its file gives before it is decoded."""

    size: Size
    gray: bool


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_header(path: str) -> Header:
    """Return size and kind of an image, without decoding it."""
    with _naming(path), Image.open(path) as image:
        if image.mode not in GRAY_MODES + COLOR_MODES:
            raise DataError(
                f"{path}: pixels of kind {image.mode!r}; expected 8 bits a channel, gray or color"
            )
        return Header((image.height, image.width), image.mode in GRAY_MODES)


def open_image(path: str, channels: int) -> Image.Image:
    """Return the decoded image, gray for one channel and RGB for three."""
    with _naming(path), Image.open(path) as image:
        if image.mode == "P" and "transparency" in image.info:
            return image.convert("RGBA").convert("L" if channels == 1 else "RGB")
        return image.convert("L" if channels == 1 else "RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as a tensor, uint8 [C, H, W]."""
    pixels: NDArray[np.uint8] = np.array(image)
    return torch.from_numpy(pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1).copy())


def center_crop(image: Image.Image, size: Size) -> Image.Image:
    """Resize so that the crop is 224/256 of the shorter side, and cut out the middle.

    An image that has the size already is taken as it is.
    """
    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = RESIZE * max(height / image.height, width / image.width)
    resized = image.resize(
        (max(width, round(image.width * scale)), max(height, round(image.height * scale))),
        Image.Resampling.BILINEAR,
    )
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def read_headers(paths: Sequence[str]) -> list[Header]:
    """Return the headers of all files, in order; a DataError counts those that cannot be read."""
    return _in_threads(read_header, paths)


def decode_exact(paths: Sequence[str], channels: int, size: Size) -> Tensor:
    """Decode images that must all have ``size``; uint8 [N, channels, H, W]."""

    def decode(path: str) -> Tensor:
        image = open_image(path, channels)
        if (image.height, image.width) != size:
            raise DataError(f"{path}: {_text((image.height, image.width))} pixels; expected {_text(size)}")
        return to_tensor(image)

    return _decode(decode, paths, channels, size)


def decode_cropped(paths: Sequence[str], channels: int, size: Size) -> Tensor:
    """Decode, resize and center-crop images of any size; uint8 [N, channels, H, W]."""
    return _decode(
        lambda path: to_tensor(center_crop(open_image(path, channels), size)), paths, channels, size
    )


def common_size(paths: Sequence[str], headers: Sequence[Header]) -> Size:
    """Return the size that all images have.

    Raises:
        DataError: a file, which is named, differs from the majority.
    """
    sizes, counts = np.unique(np.array([header.size for header in headers]), axis=0, return_counts=True)
    height, width = (int(value) for value in sizes[counts.argmax()])
    for path, header in zip(paths, headers, strict=True):
        if header.size != (height, width):
            raise DataError(
                f"images differ in size: {counts.max()} of {len(paths)} are {_text((height, width))} pixels, "
                f"but {path} is {_text(header.size)}; pass image_size=... to crop and resize all to one size"
            )
    return height, width


def _text(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _decode(decode: Callable[[str], Tensor], paths: Sequence[str], channels: int, size: Size) -> Tensor:
    images = torch.empty((len(paths), channels, *size), dtype=torch.uint8)

    def store(position: int) -> None:
        images[position] = decode(paths[position])

    _in_threads(store, range(len(paths)))
    return images


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return ``function`` of each item, in order; raise the ``DataError``s of all items as one."""

    def attempt(item: Item) -> Result | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    with ThreadPoolExecutor(available_cores()) as pool:
        results = list(pool.map(attempt, items))
    errors = [result for result in results if isinstance(result, DataError)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        shown = "".join(f"\n  {error}" for error in errors[:_SHOWN])
        more = f"\n  and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise DataError(f"{len(errors)} of {len(items)} image files are unusable:{shown}{more}")
    return [result for result in results if not isinstance(result, DataError)]


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a ``DataError`` that names the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image, or broken; repair or remove the file") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be decoded ({reason}); repair or remove the file") from error
