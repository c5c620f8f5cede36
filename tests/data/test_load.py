from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets

import lasfast
from lasfast.data import DataError, Dataset, FolderImages, FolderLoader, TensorImages, TrainingImages, load
from lasfast.data.normalization import normalize
from lasfast.data.sources import RECIPES


def image_keys(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_digits():
    data = load("digits")
    assert isinstance(data, Dataset)
    assert isinstance(data.train, TrainingImages)
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, (8, 8))
    assert data.classes == tuple("0123456789")
    images, labels = data.validation
    assert images.shape == (360, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert len(data.train) == 1082
    assert data.calibration.shape == (1000, 1, 8, 8)
    test_images, test_labels = data.test
    assert test_images.shape == (355, 1, 8, 8)
    assert data.raw_calibration.dtype == data.raw_validation[0].dtype == torch.uint8
    assert torch.equal(undo(data.calibration, data), data.raw_calibration)
    assert torch.equal(undo(images, data), data.raw_validation[0])
    assert torch.equal(labels, data.raw_validation[1])
    assert data.test is data.test  # read once
    bunch = load_digits()
    for digit in range(10):  # the last fifth of every class is the test split
        count = int((bunch.target == digit).sum())
        assert int((test_labels == digit).sum()) == count // 5
        assert abs(int((labels == digit).sum()) - 0.2 * count) < 2
    # All 1,797 images are somewhere, and none is in two parts.
    raw = torch.cat([data.train.images, *(undo(part, data) for part in (images, test_images))])
    expected = torch.from_numpy(np.round(bunch.images * 255 / 16)).to(torch.uint8).unsqueeze(1)
    assert sorted(image_keys(raw)) == sorted(image_keys(expected))
    # Normalized by the training images' own mean and std.
    values = data.train.images.double() / 255
    assert data.mean[0] == pytest.approx(float(values.mean()), rel=1e-9)
    assert data.std[0] == pytest.approx(float(values.std(correction=0)), rel=1e-9)
    # A mirrored digit is another symbol.
    assert (data.train.pad, data.train.flip) == (1, False)


def undo(images: torch.Tensor, data: Dataset) -> torch.Tensor:
    return torch.round((images * data.std[0] + data.mean[0]) * 255).to(torch.uint8)


def test_calibration_is_a_balanced_part_of_the_training_images():
    data = load("digits", calibration=200, seed=3)
    raw = image_keys(undo(data.calibration, data))
    labels = dict(zip(image_keys(data.train.images), data.train.labels.tolist(), strict=True))
    assert np.bincount([labels[key] for key in raw]).tolist() == [20] * 10
    assert len(load("digits", calibration=10**6).calibration) == 1082


def test_options_of_the_split():
    small = load("digits", limit=205, validation=0.1, seed=1)
    assert len(small.train) == 205
    assert set(torch.bincount(small.train.labels).tolist()) == {20, 21}
    assert len(small.validation[1]) == 144
    whole = load("digits", validation=144, seed=1)
    assert torch.equal(undo(small.validation[0], small), undo(whole.validation[0], whole))
    assert len(load("digits", limit=10**6).train) == 1082
    other = load("digits", pad=0, flip=True, image_size=8)
    assert (other.train.pad, other.train.flip, other.image_size) == (0, True, (8, 8))


def test_descriptions_identify_the_images():
    description = load("digits").describe()
    assert json.loads(json.dumps(description)) == description
    assert load("digits").describe() == description
    assert (description["train"], description["calibration"], description["validation"]) == (1082, 1000, 360)
    assert load("digits", seed=1).describe()["digest"] != description["digest"]
    assert load("digits", flip=True).describe() != description
    assert repr(load("digits")) == (
        "Dataset('digits': 10 classes, 1x8x8; train 1082, calibration 1000, validation 360)"
    )


def test_the_test_split_is_the_same_for_every_seed():
    one, two = load("digits", seed=1), load("digits", seed=2)
    assert torch.equal(undo(one.test[0], one), undo(two.test[0], two))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "mnist"}, ValueError, "one of digits, cifar10, .*imagefolder:PATH, .*; got 'mnist'"),
        ({"name": "imagefolder"}, ValueError, "imagefolder:PATH, csv:FILE, .*; got 'imagefolder'"),
        ({"name": "digits:x"}, ValueError, "webdataset:PATTERN; got 'digits:x'"),
        ({"name": 3}, TypeError, "name must be a string, got 3"),
        ({"calibration": 0}, ValueError, "calibration must be at least 1, got 0"),
        ({"validation": 1.5}, ValueError, "a part between 0 and 1, got 1.5"),
        ({"validation": 0}, ValueError, "validation must be at least 1, got 0"),
        ({"validation": True}, TypeError, "validation must be an int, got True"),
        ({"validation": 1440}, DataError, "validation=1440: cannot hold 1440 images out of 1442"),
        ({"limit": 9}, ValueError, "limit must be at least 10, one image per class, got 9"),
        ({"seed": 0.5}, TypeError, "seed must be an int, got 0.5"),
        ({"image_size": 16}, ValueError, r"image_size must be None or \(8, 8\).*got \(16, 16\)"),
        ({"image_size": "8"}, TypeError, "image_size must be an int or a"),
        ({"image_size": (8, 0)}, ValueError, "image_size must be at least 1, got 0"),
        ({"flip": 1}, TypeError, "flip must be True, False or None, got 1"),
        ({"pad": -1}, ValueError, "pad must be at least 0, got -1"),
        ({"workers": -1}, ValueError, "workers must be at least 0, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        load(**{"name": "digits", **arguments})


def test_small_images_of_a_folder_are_held_in_memory(make_classes):
    root = make_classes("root/train", (30, 20), size=(32, 24)).parent
    data = load(f"imagefolder:{root}", calibration=10, validation=10)
    assert isinstance(data.train, TensorImages)
    assert (data.image_size, data.channels, data.classes) == ((32, 24), 3, ("class0", "class1"))
    assert (data.train.pad, data.train.flip) == (4, True)
    assert data.calibration.shape == (10, 3, 32, 24)
    assert torch.bincount(data.validation[1]).tolist() == [6, 4]
    assert len(data.train) == 40
    (root.parent / "elsewhere").mkdir()
    moved = root.rename(root.parent / "elsewhere" / "root")
    assert load(f"imagefolder:{moved}", calibration=10, validation=10).describe() == data.describe()


def test_a_folder_has_one_channel_when_all_its_images_are_gray(make_classes):
    folder = make_classes("gray/train", (10, 10), mode="L")
    assert load(f"imagefolder:{folder.parent}").channels == 1
    Image.new("RGB", (8, 8), (9, 99, 199)).save(folder / "class0" / "000.png")
    assert load(f"imagefolder:{folder.parent}").channels == 3


def test_the_test_part_of_a_folder_is_not_read_before_it_is_asked_for(make_classes):
    root = make_classes("root/train", (10, 10)).parent
    make_classes("root/test", (3, 3), seed=1)
    broken = root / "test" / "class1" / "001.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"broken")
    data = load(f"imagefolder:{root}")
    with pytest.raises(DataError, match=r"1 of 6 .*\n.*test.class1.001.png: not an image, or broken"):
        _ = data.test
    broken.write_bytes(whole)
    images, labels = data.test
    assert images.shape == (6, 3, 8, 8)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    Image.new("RGB", (9, 9)).save(broken)
    with pytest.raises(DataError, match=r"001.png: 9x9 pixels; expected 8x8"):
        _ = load(f"imagefolder:{root}").test


def test_validation_images_of_a_folders_own(make_classes):
    root = make_classes("root/train", (10, 12)).parent
    make_classes("root/test", (3, 3), seed=1)
    make_classes("root/val", (4, 6), seed=2)
    said: list[str] = []
    data = load(f"imagefolder:{root}", report=said.append)
    assert said[0].endswith("validation images from val, test images from test")
    assert len(data.train.labels) == 22
    assert data.validation[1].tolist() == [0] * 4 + [1] * 6
    fewer, part = (load(f"imagefolder:{root}", validation=wanted) for wanted in (5, 0.5))
    assert fewer.validation[1].tolist() == [0] * 2 + [1] * 3 == part.validation[1].tolist()
    assert len(fewer.train.labels) == 22
    assert len(load(f"imagefolder:{root}", limit=6).train.labels) == 6
    with pytest.raises(
        DataError, match="validation must be at most 10, the validation images there are, got 11"
    ):
        load(f"imagefolder:{root}", validation=11)


def test_held_out_test_files_are_not_opened_either(make_classes):
    root = make_classes("plain", (10, 10))
    data = load(f"imagefolder:{root}", validation=4)
    held = {tuple(image.flatten().tolist()) for image in data.test[0]}
    assert len(held) == 4
    used = torch.cat([augmentless(data), data.validation[0]])
    assert not held & {tuple(image.flatten().tolist()) for image in used}
    # Break every file; then load names only files that are not in the test part.
    from lasfast.data.folder import open_image_folder

    for path in open_image_folder(root).test().paths:
        Path(path).write_bytes(b"")
    assert load(f"imagefolder:{root}", validation=4).describe() == data.describe()


def augmentless(data: Dataset) -> torch.Tensor:
    return normalize(data.train.images, data.mean, data.std)


def test_broken_and_odd_training_images_are_named(make_classes):
    root = make_classes("plain", (20, 20), size=(16, 16), suffix=".jpg")
    path = Path(load_files(root)[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(DataError, match=rf"{path.name}: cannot be decoded \((?i:.*truncated)"):
        load(f"imagefolder:{root}")
    Image.new("RGB", (20, 16)).save(path)
    with pytest.raises(DataError, match=rf"images differ in size: .*{path.name} is 20x16; pass image_size"):
        load(f"imagefolder:{root}")


def load_files(root: Path) -> tuple[str, ...]:
    from lasfast.data.folder import open_image_folder

    return open_image_folder(root).pool.paths


@pytest.mark.parametrize(("size", "image_size"), [((100, 120), None), ((100, 120), 32), ((40, 40), 32)])
def test_other_images_are_read_while_they_are_used(make_classes, size, image_size):
    root = make_classes("root/train", (10, 10), size=size, suffix=".jpg").parent
    make_classes("root/val", (1, 2), size=(50, 50))
    data = load(
        f"imagefolder:{root}", image_size=image_size, calibration=6, validation=4, batch_size=3, workers=0
    )
    height, width = data.image_size
    assert data.image_size == (size if image_size is None else (32, 32))
    assert isinstance(data.train, FolderImages)
    assert isinstance(data.calibration, FolderLoader)
    assert [batch.shape for batch in data.calibration] == [(3, 3, height, width)] * 2
    assert [labels.shape for _, labels in data.validation] == [(2,), (2,)]
    for raw, batch in zip(data.raw_calibration, data.calibration, strict=True):
        assert raw.dtype == torch.uint8
        assert torch.equal(normalize(raw, data.mean, data.std), batch)
    for (raw, own), (batch, labels) in zip(data.raw_validation, data.validation, strict=True):
        assert torch.equal(normalize(raw, data.mean, data.std), batch)
        assert torch.equal(own, labels)
    assert len(data.train) == 16
    images, _ = next(data.train.batches(8, seed=0))
    assert images.shape == (8, 3, height, width)
    everything = torch.cat([image for image, _ in data.validation])
    assert abs(float(everything.mean())) < 0.2  # normalized
    assert torch.cat([labels for _, labels in data.test]).tolist() == [0, 1, 1]
    description = data.describe()
    assert json.loads(json.dumps(description)) == description
    with pytest.raises(ValueError, match="pad must be None where images are read while they are used"):
        load(f"imagefolder:{root}", image_size=image_size or (100, 120), pad=4)


def test_images_of_many_sizes_need_an_image_size(make_classes):
    root = make_classes("plain", (10, 10), size=(40, 40))
    for path in load_files(root)[::2]:
        Image.new("RGB", (50, 60)).save(path)
    with pytest.raises(DataError, match="images differ in size"):
        load(f"imagefolder:{root}")
    assert load(f"imagefolder:{root}", image_size=32, workers=0).image_size == (32, 32)


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, hundred: bool) -> None:
    kind = datasets.CIFAR100 if hundred else datasets.CIFAR10
    folder = root / kind.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ["train", "test"] if hundred else ["data_batch_1", "data_batch_2", "test_batch"]
    for name in names:
        content = {
            "data": rng.integers(0, 256, (40, 3072), dtype=np.uint8),
            "fine_labels" if hundred else "labels": [i % 4 for i in range(40)],
        }
        (folder / name).write_bytes(pickle.dumps(content))
    meta = {"fine_label_names" if hundred else "label_names": list("abcd")}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(kind, "train_list", [[name, None] for name in names[:-1]])
    monkeypatch.setattr(kind, "test_list", [[names[-1], None]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_through_torchvision(tmp_path, monkeypatch, name):
    hundred = name == "cifar100"
    write_cifar(tmp_path, monkeypatch, hundred)
    folder = tmp_path / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    test_file = folder / ("test" if hundred else "test_batch")
    whole = test_file.read_bytes()
    test_file.write_bytes(b"broken")
    monkeypatch.setenv("LASFAST_DATA", str(tmp_path))
    data = load(name, validation=8, calibration=12)
    assert (data.image_size, data.channels, data.classes) == ((32, 32), 3, ("a", "b", "c", "d"))
    assert len(data.train) == (32 if hundred else 72)
    assert (data.train.pad, data.train.flip) == (4, True)
    first = pickle.loads((folder / ("train" if hundred else "data_batch_1")).read_bytes())["data"]
    assert {image.numpy().tobytes() for image in data.train.images} & {row.tobytes() for row in first}
    with pytest.raises(DataError, match=f"{name} was not found, or is damaged, in"):
        _ = data.test
    test_file.write_bytes(whole)
    assert data.test[0].shape == (40, 3, 32, 32)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def test_fashion_mnist_through_torchvision(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    data = load("fashion-mnist", root=tmp_path, validation=0.5)
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, (28, 28))
    assert (len(data.train), len(data.validation[1])) == (30, 30)
    assert data.train.flip
    assert data.test[0].shape == (20, 1, 28, 28)


def test_svhn_through_torchvision(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 20)):
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).reshape(-1, 1)  # in the files, zeros are tens
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels})
    files = {part: ["", f"{part}_32x32.mat", None] for part in ("train", "test")}
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    data = load("svhn", root=tmp_path, validation=0.5)
    assert (data.classes, data.channels, data.image_size) == (tuple("0123456789"), 3, (32, 32))
    assert (len(data.train), len(data.validation[1])) == (30, 30)
    assert (data.train.pad, data.train.flip) == (4, False)
    test_images, test_labels = data.test
    assert test_labels.tolist() == [*range(1, 10), 0] * 2
    raw = (
        test_images[3] * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
    ) * 255
    torch.testing.assert_close(raw.round(), torch.from_numpy(images[..., 3]).permute(2, 0, 1).float())


def test_cinic10_has_the_parts_that_it_comes_with(make_classes):
    for part, counts in (("train", (10, 10)), ("valid", (4, 4)), ("test", (3, 3))):
        root = make_classes(f"cinic-10/{part}", counts, size=(32, 32), suffix=".png").parents[1]
    data = load("cinic10", root=root)
    assert (len(data.train), len(data.validation[1]), len(data.test[1])) == (20, 8, 6)
    assert (data.train.pad, data.train.flip, data.image_size) == (4, True, (32, 32))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "cinic10", "fashion-mnist", "tiny-imagenet"])
def test_missing_sets_say_where_they_were_looked_for(tmp_path, name):
    with pytest.raises(
        DataError, match=rf"{name} was not found.*{tmp_path}.*pass download=True .*--data-root"
    ):
        load(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing was fetched or made


@pytest.fixture
def tiny_imagenet(make_classes):
    root = make_classes("tiny-imagenet-200/train", (10, 10), size=(64, 64), suffix=".JPEG").parent
    for folder in (root / "train").iterdir():
        (folder / "boxes.txt").write_text("")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for number, label in enumerate([1, 0, 1]):
        Image.new("RGB", (64, 64), (label * 200, 0, 0)).save(root / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\tclass{label}\t0\t0\t9\t9\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_tiny_imagenet_reads_val_as_its_test_split(tiny_imagenet):
    data = load("tiny-imagenet", root=tiny_imagenet.parent, validation=4)
    assert data.train.resized_crop
    assert (len(data.train), data.image_size) == (16, (64, 64))
    images, _ = next(data.train.batches(8, seed=0))
    assert images.shape == (8, 3, 64, 64)
    assert data.test[1].tolist() == [1, 0, 1]
    padded = load("tiny-imagenet", root=tiny_imagenet.parent, pad=8)
    assert (padded.train.pad, padded.train.resized_crop) == (8, False)
    table = tiny_imagenet / "val" / "val_annotations.txt"
    table.write_text(table.read_text() + "val_3.JPEG\tclass7\n")
    with pytest.raises(
        DataError, match=r"val_annotations.txt, line 4: expected a file name and a known class"
    ):
        _ = load("tiny-imagenet", root=tiny_imagenet.parent).test
    table.unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt: cannot be read"):
        _ = load("tiny-imagenet", root=tiny_imagenet.parent).test


def test_downloads_happen_only_when_asked_for_and_failures_say_so(tmp_path, monkeypatch):
    calls = []

    def no_network(*arguments, **keywords):
        calls.append((arguments, keywords))
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", no_network)
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", no_network)
    monkeypatch.setattr(datasets.svhn, "download_url", no_network)
    for name in ("tiny-imagenet", "cifar10", "svhn", "cinic10"):
        with pytest.raises(
            DataError, match=rf"{name} could not be downloaded to {tmp_path}.*no route to host"
        ):
            load(name, root=tmp_path, download=True)
    assert len(calls) == 4
    assert calls[0][0] == ("http://cs231n.stanford.edu/tiny-imagenet-200.zip", str(tmp_path))


def test_without_torchvision_the_error_says_what_to_do(monkeypatch, tmp_path, make_classes):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        DataError,
        match=rf"cifar10 is read through torchvision, which does not import here.*belongs to torch "
        rf"{torch.__version__.replace('+', '.')}.*or use 'digits'",
    ):
        load("cifar10", root=tmp_path)
    assert load("digits").num_classes == 10
    assert load(f"imagefolder:{make_classes('plain', (10, 10))}").num_classes == 2


def test_a_torchvision_that_fails_while_importing_is_no_crash(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"RuntimeError: operator torchvision::nms does not exist"):
        load("fashion-mnist", root=tmp_path)


def test_nothing_but_what_is_needed_is_imported():
    code = (
        "import sys, lasfast.data; lasfast.data.load('digits'); "
        "others = {n for n in sys.modules if n.startswith('lasfast.') and not n.startswith('lasfast.data')}; "
        "core = ('', '.cache', '.checks', '.csv_rows', '.entry_points', '.files'); "
        "helpers = {'lasfast._version', *(f'lasfast.core{n}' for n in core)}; "
        "assert others <= helpers, others; "
        "assert 'torchvision' not in sys.modules"
    )
    root = Path(lasfast.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_every_recipe_is_complete():
    of_arrays = {"digits", "cifar10", "cifar100", "svhn", "fashion-mnist"}
    assert set(RECIPES) == of_arrays | {"cinic10", "tiny-imagenet", "imagefolder", "csv", "webdataset"}
    assert not RECIPES["digits"].flip
