"""Times the reading of training images from JPEG files at 224 pixels, beside torchvision's in a DataLoader.

    python -m benchmarks.record_input benchmarks/results/input.json

The files are cut from scikit-learn's two photographs: as large as ImageNet's are on average, and as cameras'.
All read them in one worker process, to normalized batches. Rates are images for each second of processor
time, the worker's and the reader's together, so that what else runs on the machine counts for little. Epochs
have as many images as it takes for the start of the worker to count for little, too.

`decoding` has the seconds that decoding alone takes of an image, by Pillow and by simplejpeg: no reader that
decodes whole files is faster.
"""

from __future__ import annotations

import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import typer
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import io  # whose decoders are deprecated
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks import _harness
from lasfast.data import FolderImages, decode

SIZE, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = {"500x375": (500, 375, 95, 512), "2000x1500": (2000, 1500, 92, 96)}
"""Width, height, quality of JPEG, and number of files of each kind."""
BASELINES = {"torchvision_pil": "torchvision, PIL", "torchvision_tensors": "torchvision, tensors"}
SIMPLEJPEG: Any = decode.simplejpeg


def write_files(folder: Path, width: int, height: int, quality: int, count: int) -> int:
    """Write parts of the photographs, resized, as files of two classes; return their mean size in bytes."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = random.Random(0)
    files = []
    for number in range(count):
        photograph = photographs[number % 2]
        cut_width = rng.randint(400, photograph.width)
        cut_height = min(photograph.height, cut_width * height // width)
        left, top = (
            rng.randint(0, photograph.width - cut_width),
            rng.randint(0, photograph.height - cut_height),
        )
        part = photograph.crop((left, top, left + cut_width, top + cut_height))
        files.append(folder / str(number % 2) / f"{number:03}.jpg")
        files[-1].parent.mkdir(exist_ok=True)
        part.resize((width, height), Image.Resampling.LANCZOS).save(files[-1], quality=quality)
    return round(statistics.mean(file.stat().st_size for file in files))


def torchvision_loader(folder: Path, tensors: bool) -> Iterable[Any]:
    """Return torchvision's reading, as its training reference does it, by PIL or by tensors."""
    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    if tensors:
        files = ImageFolder(folder, v2.Compose([*crop, *end]), loader=lambda path: io.decode_image(path))
    else:
        files = ImageFolder(folder, v2.Compose([*crop, v2.PILToTensor(), *end]))
    return DataLoader(files, BATCH, shuffle=True, num_workers=1, drop_last=True)


def own_batches(folder: Path, fast_decode: bool, simplejpeg: bool = False) -> Iterable[Any]:
    """Give lasfast's batches of an epoch, decoded by Pillow or by simplejpeg."""
    files = ImageFolder(folder)
    paths, labels = zip(*files.samples, strict=True)
    data = FolderImages(
        paths, torch.tensor(labels), (SIZE, SIZE), MEAN, STD, workers=1, fast_decode=fast_decode
    )
    with patch.object(decode, "simplejpeg", SIMPLEJPEG if simplejpeg else None):
        yield from data.batches(BATCH, 0)


READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    "torchvision, PIL": lambda folder: torchvision_loader(folder, tensors=False),
    "torchvision, tensors": lambda folder: torchvision_loader(folder, tensors=True),
    "lasfast": lambda folder: own_batches(folder, fast_decode=False),
    "lasfast, fast_decode": lambda folder: own_batches(folder, fast_decode=True),
    "lasfast, simplejpeg": lambda folder: own_batches(folder, fast_decode=False, simplejpeg=True),
    "lasfast, fast_decode, simplejpeg": lambda folder: own_batches(folder, fast_decode=True, simplejpeg=True),
}


def decoding_seconds(folder: Path) -> dict[str, float]:
    """Return the processor seconds that decoding takes of each file, and nothing else, by either library."""
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:128]]
    ways: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda content: Image.open(BytesIO(content)).load(),
        "simplejpeg": lambda content: SIMPLEJPEG.decode_jpeg(content),
    }
    found = {}
    for name, run in ways.items():
        run(contents[0])
        began = time.process_time()
        for content in contents:
            run(content)
        found[name] = round((time.process_time() - began) / len(contents), 6)
    return found


def times(rates: dict[str, list[float]], baseline: str) -> dict[str, float]:
    """Return the median, over rounds, of each reader's rate divided by a baseline's."""
    return {
        name: round(statistics.median(map(float.__truediv__, one, rates[baseline])), 2)
        for name, one in rates.items()
    }


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def rate(read: Callable[[Path], Iterable[Any]], folder: Path) -> float:
    """Return the images that are read in each second of processor time, over an epoch."""
    began = processor_seconds()
    images = sum(len(labels) for _, labels in read(folder))
    return images / (processor_seconds() - began)


def main(path: Path, rounds: int = 7) -> None:
    """Measure, and write the record."""
    if SIMPLEJPEG is None:
        raise SystemExit("simplejpeg must be installed: pip install 'lasfast[jpeg]'")
    torch.set_num_threads(1)
    machine, kinds = _harness.machine(), {}
    for kind, (width, height, quality, count) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            size = write_files(Path(folder), width, height, quality, count)
            decoding: dict[str, list[float]] = {}
            rates: dict[str, list[float]] = {name: [] for name in READERS}
            for number in range(rounds):
                for name in list(READERS)[:: -1 if number % 2 else 1]:
                    rates[name].append(rate(READERS[name], Path(folder)))
                for name, seconds in decoding_seconds(Path(folder)).items():
                    decoding.setdefault(name, []).append(seconds)
        kinds[kind] = {
            "files": count,
            "bytes": size,
            "images_per_second": {name: round(statistics.median(one)) for name, one in rates.items()},
            "decoding_seconds": {name: statistics.median(one) for name, one in decoding.items()},
            **{f"times_{key}": times(rates, name) for key, name in BASELINES.items()},
        }
        print(kind, kinds[kind])
    record = {"record": "input", "size": SIZE, "batch": BATCH, "rounds": rounds, "kinds": kinds}
    _harness.write({**record, "machine": machine}, path)


if __name__ == "__main__":
    typer.run(main)
