"""Sets in tar archives, beside the same images in folders; the archives are those of Python's `tarfile`."""

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from lasfast.core import cache
from lasfast.data import DataError, FolderImages, TensorImages, listing, load, webdataset
from lasfast.data.folder import scan
from lasfast.data.webdataset import expand, open_archives, read_through


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(webdataset, "MANY", 1)
    monkeypatch.setattr(listing, "SETTLED", -(10**18))


def write(path, members):
    """An archive of members in this order: a name, and bytes."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(folder):
    """The members of an archive that has the images of class folders, and their other files."""
    files = scan(folder)
    members = []
    for path, label in zip(files.paths, files.labels, strict=True):
        key = f"{Path(path).parent.name}/{Path(path).stem}"
        members.append((f"{key}{Path(path).suffix}", Path(path).read_bytes()))
        members.append((f"{key}.cls", f"{label}\n".encode()))
        members.append((f"{key}.json", b"{}"))
    return members


def archives(folder, name, parts=2):
    """Archives of a folder's images, in their order, as even as can be."""
    members = samples(folder)
    each = -(-len(members) // 3 // parts) * 3
    for number in range(parts):
        write(folder.parent / f"{name}-{number:03}.tar", members[each * number : each * (number + 1)])
    return str(folder.parent / f"{name}-{{000..{parts - 1:03}}}.tar")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_set_is_that_of_its_images_in_folders(make_classes, suffix):
    folder = make_classes("photos", (9, 7), suffix=suffix)
    scanned = scan(folder)
    pattern = archives(folder, "train")
    source = open_archives(pattern, None, None)
    assert source.pool.labels.tolist() == scanned.labels.tolist()
    assert source.pool.classes == ("0", "1")
    assert source.pool.ignored == 16
    options = {"calibration": 4, "validation": 3, "seed": 1}
    data = load(f"webdataset:{pattern}", **options)
    assert isinstance(data.train, TensorImages)  # small ones are held in memory
    assert data.describe()["name"] == "webdataset:train-{000..001}.tar"
    # Of the folder, a fifth is its test split; so the same images are loaded as train/, which has none.
    (folder.parent / "all").mkdir()
    folder.rename(folder.parent / "all" / "train")
    expected = load(f"imagefolder:{folder.parent / 'all'}", **options)
    assert torch.equal(data.train.images, expected.train.images)
    assert torch.equal(data.train.labels, expected.train.labels)
    assert torch.equal(data.raw_validation[0], expected.raw_validation[0])
    assert data.describe()["digest"] == expected.describe()["digest"]


@pytest.mark.parametrize("fast", [False, True])
def test_large_images_give_the_batches_of_files_from_any_on(make_classes, fast):
    folder = make_classes("photos", (9, 8), size=(40, 30), suffix=".jpg")
    pattern = archives(folder, "train", parts=3)
    pool = open_archives(pattern, None, None).pool
    options = (torch.from_numpy(pool.labels), (16, 12), (0.4,) * 3, (0.3,) * 3)
    ours = FolderImages(pool.paths, *options, workers=0, fast_decode=fast)
    files = FolderImages(scan(folder).paths, *options, workers=0, fast_decode=fast)
    expected = list(files.batches(4, 7))
    for start in (0, 2):
        for (images, labels), (same, own) in zip(ours.batches(4, 7, start), expected[start:], strict=True):
            assert torch.equal(images, same)
            assert torch.equal(labels, own)
    assert ours.describe() == files.describe()  # names, sizes and labels


def test_validation_and_test_images_of_other_archives(make_classes):
    train, val, test = (make_classes(name, (6, 6), seed=seed) for seed, name in enumerate(("a", "b", "c")))
    patterns = [archives(folder, folder.name) for folder in (train, val, test)]
    told = []
    data = load(
        f"webdataset:{patterns[0]}",
        validation_archives=patterns[1],
        test_archives=patterns[2],
        report=told.append,
    )
    assert (len(data.train), len(data.raw_validation[1]), len(data.test[1])) == (12, 12, 12)
    where = f"validation images from {patterns[1]}, test images from {patterns[2]}"
    assert told == [f"{patterns[0]}: training images, {where}"]
    data = load(f"webdataset:{patterns[0]}", validation=4)
    assert (len(data.train), len(data.raw_validation[1])) == (8, 4)
    with pytest.raises(DataError, match="has no test images: test_archives must name theirs, got None"):
        _ = data.test


@pytest.mark.parametrize(
    "pattern",
    [
        "train-{000..011}.tar",
        "{train,val}-{0..2}.tar",
        "{9..12}{a,b}",
        "{3..1}",
        "{00..10..5}",
        "{a,{0..1}}-{x,y}",
        "{a,b,}-{x{1,2},y}",
        "{{0..2}}{a,{b}}",
        "no{}-{braces}",
        "{08..11}.tar",
    ],
)
def test_braces_are_those_of_the_shell(pattern):
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
    assert expand(pattern) == shell.stdout.split()


def test_patterns_are_joined_and_stars_are_what_is_there(tmp_path):
    for name in ("b-1.tar", "b-0.tar", "c.tar"):
        (tmp_path / name).touch()
    found = expand(f"{tmp_path}/b-*.tar::{tmp_path}/{{c,d}}.tar")
    assert [Path(path).name for path in found] == ["b-0.tar", "b-1.tar", "c.tar", "d.tar"]


def test_archives_are_read_through_once(make_classes):
    folder = make_classes("photos", (4, 4))
    pattern = archives(folder, "train")
    with patch.object(webdataset, "read_through", wraps=read_through) as through:
        first = open_archives(pattern, None, None)
        again = open_archives(pattern, None, None)
        assert through.call_count == 2
        assert again.pool.paths == first.pool.paths
        assert again.pool.labels.tolist() == first.pool.labels.tolist()
        assert again.pool.ignored == first.pool.ignored
        assert "did not change" not in first.parts
        assert "; 2 archives did not change since they were read through" in again.parts
        write(folder.parent / "train-001.tar", samples(folder)[-6:])
        assert len(open_archives(pattern, None, None).pool.paths) == 4 + 2
        assert through.call_count == 3
        open_archives(pattern, None, None, list_anew=True)
        assert through.call_count == 5
    [file] = cache.directory().glob("archives-*.json")
    file.write_text(json.dumps({"format": 2, "entries": {"a": 3}}))
    assert len(open_archives(pattern, None, None).pool.paths) == 6


def test_what_is_no_sample_is_ignored(make_classes, tmp_path):
    image = next(make_classes("photos", (1, 1)).rglob("*.png")).read_bytes()
    members = [("x/1.png", image), ("x/1.seg.png", b""), ("x/._1.png", b""), ("readme", b"")]
    members += [("x/1.cls", b" 1 \r\n"), ("y.z/1.CLS", b"0"), ("y.z/1.JPEG", image)]
    index = read_through(str(write(tmp_path / "a.tar", members)))
    assert [(name, label) for name, _, _, label in index.samples] == [("x/1.png", 1), ("y.z/1.JPEG", 0)]
    assert index.ignored == 2
    with open(tmp_path / "a.tar", "rb") as file:
        for _, offset, size, _ in index.samples:
            file.seek(offset)
            assert file.read(size) == image


def cut(path, kept):
    path.write_bytes(path.read_bytes()[:kept])


@pytest.mark.parametrize(
    ("members", "break_it", "message"),
    [
        ([("a.jpg", b"1")], None, "a.tar: a has an image but no .cls"),
        ([("a.cls", b"1")], None, "a.tar: a has .cls but no image"),
        ([("a.jpg", b"1"), ("a.png", b"1")], None, "a.tar: a has two images"),
        ([("a.cls", b"1"), ("a.cls", b"1")], None, "a.tar: a has two .cls files"),
        ([("a.cls", b"cat")], None, "a.cls must have the number of a class, from 0, as text, got b'cat'"),
        ([("a.cls", b"-1")], None, "a.cls must have the number of a class"),
        (None, lambda path: cut(path, 700), "a.tar: not a tar archive, or damaged .*unexpected end of data"),
        (None, lambda path: cut(path, 2048), "a.tar: the archive is cut off: it has no end"),
        (None, lambda path: cut(path, 2048 + 100), "a.tar: the archive is cut off: it has no end"),
        (None, lambda path: path.write_bytes(2 * path.read_bytes()), "a.tar: something follows byte 2048"),
        (None, lambda path: path.write_bytes(b"no archive" * 100), "a.tar: not a tar archive, or damaged"),
        (None, lambda path: path.write_bytes(b""), "a.tar: not a tar archive, or damaged"),
        (None, lambda path: path.write_bytes(gzip.compress(path.read_bytes())), "a.tar: compressed by gzip"),
        (None, Path.unlink, r"a.tar: cannot be read \(No such file"),
    ],
)
def test_damaged_archives_are_named(tmp_path, members, break_it, message):
    path = write(tmp_path / "a.tar", members or [("a.jpg", b"1"), ("a.cls", b"1")])
    if break_it:
        break_it(path)
    with pytest.raises(DataError, match=message):
        read_through(str(path))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "expected images of each class from 0 to 2, found none of class 1"),
        ([1, 2], "found none of class 0"),
        ([0, 0], "expected images of each class from 0 to 1, found one class"),
    ],
)
def test_classes_are_numbers_from_zero(tmp_path, labels, message):
    members = [
        (f"{key}.{kind}", str(label).encode()) for key, label in enumerate(labels) for kind in ("cls", "jpg")
    ]
    with pytest.raises(DataError, match=message):
        open_archives(str(write(tmp_path / "a.tar", members)), None, None)


def test_other_mistakes_are_named(make_classes, tmp_path):
    folder = make_classes("photos", (3, 3, 3))
    pattern, one = archives(folder, "train"), archives(make_classes("few", (3, 3)), "few")
    write(tmp_path / "none.tar", [("a.txt", b"")])
    for arguments, message in (
        ((str(tmp_path / "*.zip"),), "no such archive"),
        ((str(tmp_path / "none.tar"),), "no image in 1 archives"),
        (("https://host/a.tar",), "archives must be files"),
        (("pipe:cat a.tar",), "archives must be files"),
        ((f"{one}::{one}",), "few-000.tar is named more than once"),
        ((one, pattern), "class 2 is not among the 2 of the training images"),
    ):
        with pytest.raises(DataError, match=message):
            open_archives(*arguments, *[None] * (3 - len(arguments)))
    with pytest.raises(ValueError, match=r"test_archives must be None for imagefolder:.* alone, got 'a.tar'"):
        load(f"imagefolder:{folder}", test_archives="a.tar")
    with pytest.raises(TypeError, match="validation_archives must be a pattern of archives or None, got 3"):
        load(f"webdataset:{pattern}", validation_archives=3)
    with pytest.raises(ValueError, match=r"webdataset:PATTERN; got 'webdataset'"):
        load("webdataset")


def test_a_broken_image_and_a_changed_archive_are_named(make_classes, tmp_path):
    image = next(make_classes("photos", (1, 1), size=(40, 30)).rglob("*.png")).read_bytes()
    members = []
    for key in range(8):
        members += [(f"{key}.png", image if key != 5 else b"broken"), (f"{key}.cls", str(key % 2).encode())]
    path = write(tmp_path / "a.tar", members)
    with pytest.raises(
        DataError, match=r"1 of 8 image files cannot be used:\n  \S*a.tar/5.png: not an image"
    ):
        load(f"webdataset:{path}", validation=2)
    write(path, [one for one in members if not one[0].startswith("5")])
    data = load(f"webdataset:{path}", validation=2, image_size=20, workers=0)
    cut(path, 3000)
    with pytest.raises(DataError, match=r"a.tar/\d.png: .*; put the file back as it was"):
        list(data.train.batches(6, 0))
