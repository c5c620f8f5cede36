"""The sources of the named sets of images.

| name | images | from | test split |
|---|---|---|---|
| digits | 1,797 gray 8x8 | the package (digits.md) | the last fifth of every class (other writers) |
| cifar10, cifar100 | 60,000 color 32x32 | torchvision | its test set, 10,000 |
| fashion-mnist | 70,000 gray 28x28 | torchvision | its test set, 10,000 |
| svhn | 99,289 color 32x32 | torchvision, without its "extra" images | its test set, 26,032 |
| cinic10 | 270,000 color 32x32 | folder ``cinic-10``, with ``valid`` to validate on | its ``test``, 90,000 |
| tiny-imagenet | 110,000 color 64x64 | folder ``tiny-imagenet-200`` | its ``val``, 10,000 (labelled) |
| imagefolder:PATH | any | a folder | see ``folder.open_image_folder`` |
| csv:FILE | any | files that a csv file names | see ``labels.open_csv`` |
| webdataset:PATTERN | any | tar archives | see ``webdataset.open_archives`` |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lasfast.data.errors import DataError
from lasfast.data.folder import FolderSource, ImageFiles, open_image_folder, scan
from lasfast.data.listing import Folders
from lasfast.data.splits import Indices

TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
TINY_IMAGENET_FOLDER = "tiny-imagenet-200"
CINIC10_URL = "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"
CINIC10_MD5 = "6ee4d0c996905fe93221de577967a372"
CINIC10_FOLDER = "cinic-10"


class Recipe(NamedTuple):
    """The augmentation of a dataset, and the part of its training images that is held out for validation."""

    pad: int | None  # zeros around an image before the random crop; None: an eighth of the longer side
    flip: bool
    resized_crop: bool
    validation: float


# A mirrored digit is another symbol; a shirt is not. Tiny-ImageNet as in the paper (NIR, Experiments on
# Tiny-ImageNet, Training Details). Digits are few: a quarter, or candidates could not be told apart.
RECIPES = {
    "digits": Recipe(pad=1, flip=False, resized_crop=False, validation=0.25),
    "cifar10": Recipe(pad=4, flip=True, resized_crop=False, validation=0.1),
    "cifar100": Recipe(pad=4, flip=True, resized_crop=False, validation=0.1),
    "fashion-mnist": Recipe(pad=4, flip=True, resized_crop=False, validation=0.1),
    "svhn": Recipe(pad=4, flip=False, resized_crop=False, validation=0.1),
    "cinic10": Recipe(pad=4, flip=True, resized_crop=False, validation=0.1),
    "tiny-imagenet": Recipe(pad=0, flip=True, resized_crop=True, validation=0.1),
    "imagefolder": Recipe(pad=None, flip=True, resized_crop=False, validation=0.1),
    "csv": Recipe(pad=None, flip=True, resized_crop=False, validation=0.1),
    "webdataset": Recipe(pad=None, flip=True, resized_crop=False, validation=0.1),
}

_TORCHVISION = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "fashion-mnist": "FashionMNIST",
    "svhn": "SVHN",
}
_DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class ArraySource:
    """A pool of training images in memory, and how to read the test images.

    ``images`` is uint8 [N, C, H, W], ``labels`` int64 [N]; ``test()`` gives the same two of the test split.
    """

    classes: tuple[str, ...]
    images: Tensor
    labels: Indices
    test: Callable[[], tuple[Tensor, Indices]]


def open_digits() -> ArraySource:
    """Return the handwritten digits that scikit-learn has, too (Alpaydin and Kaynak 1998; see digits.md).

    The test split is the last fifth of every class in the order of the file. The file goes from writer to
    writer, so the test images are mostly by other people, and harder than the validation images.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        values, labels = file["images"], file["labels"].astype(np.int64)
    # 0 .. 16 spread over 0 .. 255, one to one
    images = torch.from_numpy(np.round(values * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    members = [np.flatnonzero(labels == digit) for digit in range(10)]
    kept = np.sort(np.concatenate([of_class[: -(len(of_class) // 5)] for of_class in members]))
    held = np.setdiff1d(np.arange(len(labels)), kept)
    return ArraySource(_DIGITS, images[kept], labels[kept], lambda: (images[held], labels[held]))


def import_torchvision(wanted: str) -> Any:
    """Return ``torchvision.datasets``; a ``DataError`` says why it does not import and what to do."""
    try:
        from torchvision import datasets
    except Exception as error:  # also OSError and RuntimeError, where it was built for another torch
        raise DataError(
            f"{wanted} is read through torchvision, which does not import here ({type(error).__name__}: "
            f"{error}). Install the torchvision that belongs to torch {torch.__version__} (see "
            "https://pytorch.org/get-started), or use 'digits' or 'imagefolder:PATH', which do without"
        ) from error
    return datasets


def open_torchvision(name: str, root: Path, download: bool) -> ArraySource:
    """Return cifar10, cifar100, fashion-mnist or svhn below ``root``, where torchvision puts them.

    Raises:
        DataError: torchvision does not import, or the files are missing or damaged.
    """
    constructor = getattr(import_torchvision(name), _TORCHVISION[name])

    def read(train: bool) -> tuple[Any, Tensor, Indices]:
        which: dict[str, Any] = {"train": train}
        if name == "svhn":
            which = {"split": "train" if train else "test"}
        try:
            part = constructor(root=str(root), download=download, **which)
        except Exception as error:
            raise _missing(name, root, download, error) from error
        images = torch.as_tensor(part.data)
        if images.dim() == 3:
            images = images.unsqueeze(1)
        elif name != "svhn":  # whose channels come first
            images = images.permute(0, 3, 1, 2).contiguous()
        labels = part.labels if name == "svhn" else part.targets
        return part, images, np.asarray(labels, dtype=np.int64)

    part, images, labels = read(train=True)
    classes = tuple(getattr(part, "classes", _DIGITS))
    return ArraySource(classes, images, labels, lambda: read(train=False)[1:])


def open_cinic10(root: Path, download: bool, list_anew: bool) -> FolderSource:
    """Return CINIC-10 (Darlow et al. 2018) in ``root/cinic-10``, with the parts that it comes with.

    Raises:
        DataError: it is not there.
    """
    folder = root / CINIC10_FOLDER
    if not (folder / "train").is_dir():
        if not download:
            raise _missing("cinic10", folder, download, None)
        _download("cinic10", CINIC10_URL, CINIC10_MD5, folder, folder)  # the archive has no folder of its own
    return open_image_folder(folder, list_anew)


def open_tiny_imagenet(root: Path, download: bool, list_anew: bool) -> FolderSource:
    """Return Tiny-ImageNet in ``root/tiny-imagenet-200``; its ``val`` is the test split.

    Raises:
        DataError: it is not there.
    """
    folder = root / TINY_IMAGENET_FOLDER
    if not (folder / "train").is_dir():
        if not download:
            raise _missing("tiny-imagenet", folder, download, None)
        _download("tiny-imagenet", TINY_IMAGENET_URL, TINY_IMAGENET_MD5, folder, root)
    folders = Folders(folder, anew=list_anew)
    pool = scan(folder / "train", folders)
    parts = f"{folder}: training images from train, validation images held out of them, test images from val"
    return FolderSource(
        pool, lambda: _tiny_imagenet_test(folder / "val", pool.classes), parts + folders.keep()
    )


def _download(name: str, url: str, md5: str, folder: Path, place: Path) -> None:
    """Download a set, which belongs in ``folder``, beside it, and unpack its archive in ``place``."""
    import_torchvision(name)
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(url, str(folder.parent), extract_root=str(place), md5=md5)
    except Exception as error:
        raise _missing(name, folder, True, error) from error


def _tiny_imagenet_test(folder: Path, classes: tuple[str, ...]) -> ImageFiles:
    """Return the images of ``val``, labelled by ``val_annotations.txt`` (tab-separated: file, class, box)."""
    table = folder / "val_annotations.txt"
    label_of = {name: label for label, name in enumerate(classes)}
    paths, labels = [], []
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error}); unpack {TINY_IMAGENET_URL} again") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in label_of:
            raise DataError(f"{table}, line {number}: expected a file name and a known class, got {line!r}")
        paths.append(str(folder / "images" / fields[0]))
        labels.append(label_of[fields[1]])
    return ImageFiles(classes, tuple(paths), np.array(labels, dtype=np.int64))


def _missing(name: str, place: Path, download: bool, error: Exception | None) -> DataError:
    reason = f" ({type(error).__name__}: {error})" if error else ""
    if download:
        return DataError(
            f"{name} could not be downloaded to {place}{reason}; put it there by hand, or try again"
        )
    return DataError(
        f"{name} was not found, or is damaged, in {place}{reason}; pass download=True to download it, or "
        "root=... to say where it is (--download and --data-root on the command line)"
    )
