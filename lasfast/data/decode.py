"""Decoding of image files to uint8 tensors, in threads (the decoders release the interpreter lock).

Images are turned as their EXIF orientation says, as viewers show them. Transparency is dropped, and of an
animation the first image is taken. A file that cannot be read, or differs from the others, raises a
``DataError`` that names it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from lasfast.data.errors import DataError
from lasfast.data.places import Place, opened, path_of, size_of

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, height, width
Item = TypeVar("Item")
Result = TypeVar("Result")

GRAY_MODES = ("1", "L", "LA")
COLOR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations of images whose height is a viewer's width
DRAFTS = (1, 2, 4, 8)  # parts of their size that JPEG files can be decoded at
CROP_PCT = 224 / 256  # the share of the shorter side that a center crop keeps
SHOWN = 10  # of the files that are unusable, so many are named

logger = logging.getLogger("lasfast")


class ImageKind(NamedTuple):
    """The size of an image as a viewer shows it, and whether it is gray."""

    size: Size
    gray: bool


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_kind(path: Place) -> ImageKind:
    """Return the size and kind of an image, which is decoded for that: it can be used if this returns."""
    with _opened(path) as image:
        return ImageKind((image.height, image.width), image.mode in GRAY_MODES)


def open_image(path: Place, channels: int) -> Image.Image:
    """Return the decoded image, gray for one channel and RGB for three."""
    with _header(path) as image:
        pixels = _by_simplejpeg(image, 1, channels)
        return _converted(_loaded(image), channels) if pixels is None else Image.fromarray(pixels)


def _converted(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def open_box(path: Place, channels: int, draw: Callable[[int, int], Box], size: Size) -> Tensor:
    """Return a box of an image, resized: uint8 [channels, *size], gray for one channel and RGB for three.

    A JPEG file is decoded at a half, a quarter or an eighth of its size where the box has the pixels that are
    wanted even so (Pillow's draft mode), and torch resizes, in less time than Pillow takes. Both round
    otherwise than `open_image` and Pillow's resizing do. Where simplejpeg is installed, it decodes, to
    the same pixels as Pillow.

    Args:
        path: the file.
        channels: 1 or 3.
        draw: returns the box for an image's height and width.
        size: that of the result.
    """
    with _header(path) as image:
        sideways = image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
        whole, across = (image.width, image.height) if sideways else (image.height, image.width)
        box = draw(whole, across)
        enough = max(1, min(box[2] // size[0], box[3] // size[1]))
        part = max(part for part in DRAFTS if part <= enough)
        pixels = _by_simplejpeg(image, part, channels)
        if pixels is None:
            image.draft(None, (image.width // part, image.height // part))
            pixels = np.asarray(_converted(_loaded(image), channels))
    scale = pixels.shape[0] / whole
    top, left, height, width = (round(side * scale) for side in box)
    cut = pixels[top : top + max(1, height), left : left + max(1, width)]
    # A copy of the box alone: torch would take the whole image's memory for contiguous, or warn of it.
    boxed = torch.from_numpy(cut.copy()).view(1, *cut.shape[:2], channels).permute(0, 3, 1, 2)
    return F.interpolate(boxed, size, mode="bilinear", antialias=True)[0]


def _by_simplejpeg(image: Image.Image, part: int, channels: int) -> NDArray[np.uint8] | None:
    """Return the pixels of an opened JPEG file at a part of its size, uint8 [H, W] for gray or [H, W, 3].

    None where simplejpeg is not installed, or where Pillow does more than to decode: it turns images upright,
    converts colors, and says what is wrong with a file.
    """
    if simplejpeg is None or image.format != "JPEG" or (image.mode, channels) not in (("RGB", 3), ("L", 1)):
        return None
    file = getattr(image, "fp", None)
    assert file is not None  # of an image that is not loaded
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    file.seek(0)
    height, width = -(-image.height // part), -(-image.width // part)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            file.read(), "RGB" if channels == 3 else "GRAY", min_height=height, min_width=width
        )  # the least size of at least so many pixels that the decoder has
    except ValueError:
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return pixels if channels == 3 else pixels[:, :, 0]


@contextmanager
def _opened(path: Place) -> Iterator[Image.Image]:
    """Open and decode an image, and turn it upright; whatever goes wrong becomes a `DataError`."""
    with _header(path) as image:
        yield _loaded(image)


@contextmanager
def _header(path: Place) -> Iterator[Image.Image]:
    """Open an image, which is decoded when it is loaded; whatever goes wrong becomes a `DataError`."""
    with _naming(path), Image.open(opened(path)) as image:
        if image.mode not in GRAY_MODES + COLOR_MODES:
            raise DataError(
                f"{path}: pixels of kind {image.mode!r}; expected 8 bits a channel, gray or color"
            )
        yield image


def _loaded(image: Image.Image) -> Image.Image:
    """Decode an image, and turn it upright."""
    image.load()
    _turn_upright(image)
    return image


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as a tensor, uint8 [C, H, W]."""
    pixels: NDArray[np.uint8] = np.array(image)
    return torch.from_numpy(pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1).copy())


def center_crop(image: Image.Image, size: Size, crop_pct: float = CROP_PCT) -> Image.Image:
    """Resize so that the crop is `crop_pct` of the shorter side, and cut out the middle.

    An image that has the size already is taken as it is.
    """
    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = 1 / crop_pct * max(height / image.height, width / image.width)
    resized = image.resize(
        (max(width, round(image.width * scale)), max(height, round(image.height * scale))),
        Image.Resampling.BILINEAR,
    )
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def decode_exact(paths: Sequence[Place], channels: int, size: Size) -> Tensor:
    """Decode images that must all have ``size``; uint8 [N, channels, H, W]."""

    def decode(path: Place) -> Tensor:
        image = open_image(path, channels)
        if (image.height, image.width) != size:
            raise DataError(f"{path}: {_text((image.height, image.width))} pixels; expected {_text(size)}")
        return to_tensor(image)

    return _decode(decode, paths, channels, size)


def decode_cropped(paths: Sequence[Place], channels: int, size: Size) -> Tensor:
    """Decode, resize and center-crop images of any size; uint8 [N, channels, H, W]."""
    return _decode(
        lambda path: to_tensor(center_crop(open_image(path, channels), size)), paths, channels, size
    )


def common_size(paths: Sequence[Place], kinds: Sequence[ImageKind]) -> Size:
    """Return the size that all images have.

    Raises:
        DataError: a file, which is named, differs from the majority.
    """
    sizes, counts = np.unique(np.array([kind.size for kind in kinds]), axis=0, return_counts=True)
    height, width = (int(value) for value in sizes[counts.argmax()])
    for path, kind in zip(paths, kinds, strict=True):
        if kind.size != (height, width):
            raise DataError(
                f"images differ in size: {counts.max()} of {len(paths)} are {_text((height, width))} pixels, "
                f"but {path} is {_text(kind.size)}; pass image_size=... to crop and resize all to one size"
            )
    return height, width


def _text(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _decode(decode: Callable[[Place], Tensor], paths: Sequence[Place], channels: int, size: Size) -> Tensor:
    images = torch.empty((len(paths), channels, *size), dtype=torch.uint8)

    def store(position: int) -> None:
        images[position] = decode(paths[position])

    raise_together(in_threads(store, range(len(paths))))
    return images


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | DataError]:
    """Return ``function`` of each item, in order, or the ``DataError`` that it raised."""

    def attempt(item: Item) -> Result | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(attempt, items))


def raise_together(results: Sequence[object]) -> None:
    """Raise the ``DataError``s among what was found of image files as one, which says what to do."""
    errors = [result for result in results if isinstance(result, DataError)]
    if not errors:
        return
    shown = "".join(f"\n  {error}" for error in errors[:SHOWN])
    more = f"\n  and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    raise DataError(
        f"{len(errors)} of {len(results)} image files cannot be used:{shown}{more}\n"
        "Repair, replace or remove them. A study that began with these files resumes with the same files "
        "alone: put them back as they were, or start it again in another directory"
    )


@contextmanager
def _naming(path: Place) -> Iterator[None]:
    """Turn whatever a decoder raises into a ``DataError`` that names the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        kind = "not an image, or broken" if size_of(path) else "an empty file"
        raise DataError(f"{path}: {kind}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: {error} PIL.Image.MAX_IMAGE_PIXELS allows larger ones") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not a decoder's
            link = "; it is a link" if os.path.islink(path_of(path)) else ""
            raise DataError(f"{path}: cannot be read ({error.strerror}{link})") from error
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be decoded ({reason})") from error


def _turn_upright(image: Image.Image) -> None:
    """Turn an image as its EXIF orientation says; EXIF data that cannot be read say nothing."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:
        logger.debug("%s: EXIF data are not read: %s", image, error)
