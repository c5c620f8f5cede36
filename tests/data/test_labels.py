"""Labels from a csv file, and image files that are left out because they are broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lasfast.data import DataError, load
from lasfast.data.labels import open_csv


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of twelve images, whose gray value is their number."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    return folder


def _write(pictures: Path, *lines: str) -> Path:
    file = pictures.parent / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_lines_name_files_beside_the_csv_file_and_their_labels(pictures: Path) -> None:
    names = ["cat", "dog", "ant"]
    file = _write(pictures, "id,Label,file", *(f"{n},x,photos/{n}.png" for n in range(12)))
    with pytest.raises(
        DataError, match=r"labels.csv: expected a column label \(or class\), found id, Label, "
    ):
        open_csv(file)
    file = _write(pictures, "id;class;file", *(f"{n};{names[n % 3]};photos/{n}.png" for n in range(12)))
    source = open_csv(file)
    files = source.pool
    assert files.classes == ("ant", "cat", "dog")
    assert len(files.paths) == 10  # a fifth is the test part
    for path, label in zip(files.paths, files.labels, strict=True):
        assert files.classes[label] == names[int(Path(path).stem) % 3]
    assert not {*files.paths} & {*source.test().paths}
    assert len(source.test().paths) == 2


def test_a_column_says_which_part_an_image_is_of(pictures: Path) -> None:
    parts = ["train"] * 6 + ["valid"] * 4 + ["test"] * 2
    lines = [f"photos/{n}.png,{9 + n % 2},{parts[n]}" for n in range(12)]
    file = _write(pictures, "path,label,split", *lines)
    said: list[str] = []
    data = load(f"csv:{file}", report=said.append)
    assert said == [f"{file}: training images from train, validation images from val, test images from test"]
    assert data.classes == ("9", "10")  # numbers are in their order
    assert data.describe()["train"] == 6
    images, labels = data.raw_validation
    assert images[:, 0, 0, 0].tolist() == [6, 8, 7, 9]
    assert labels.tolist() == [0, 0, 1, 1]
    assert data.test[1].tolist() == [0, 1]
    assert data.describe()["name"] == "csv:labels.csv"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["file,label", "photos/0.png,a", "photos/0.png,b"], "line 3: .*photos/0.png is in line 2, too"),
        (
            ["file,label", "photos/0.png,", "photos/1.png,b"],
            r"line 2: expected a file and a label, found \['pho",
        ),
        (["file,label", "photos/0.png,a"], "expected at least two labels of training images, found only 'a'"),
        (
            ["file,label,split", "photos/0.png,a,train", "photos/1.png,b,later"],
            "line 3: the split must be train, val or test, got 'later'",
        ),
        (
            ["file,label,split", "photos/0.png,a,test"],
            "expected lines with the split 'train', found only test",
        ),
        (
            ["file,label,set", "photos/0.png,a,train", "photos/1.png,b,train", "photos/2.png,c,test"],
            "label 'c' of test images is not among the 2 classes of the training images",
        ),
        ([], "the file is empty"),
    ],
)
def test_what_is_wrong_is_named(pictures: Path, lines: list[str], text: str) -> None:
    with pytest.raises(DataError, match=text):
        open_csv(_write(pictures, *lines))


def test_a_set_without_test_lines_says_where_they_would_be(pictures: Path) -> None:
    lines = [f"photos/{n}.png,{n % 2},train" for n in range(12)]
    data = load(f"csv:{_write(pictures, 'file,label,split', *lines)}")
    with pytest.raises(DataError, match="has no test images: expected lines with the split test or val"):
        _ = data.test


def test_a_path_alone_is_told_what_to_write(pictures: Path) -> None:
    with pytest.raises(ValueError, match=f"for the images in this folder, write imagefolder:{pictures}"):
        load(str(pictures))
    file = _write(pictures, "file,label")
    with pytest.raises(ValueError, match=f"names images and their labels, write csv:{file}"):
        load(str(file))


def test_broken_files_are_left_out_and_named_where_asked(make_classes) -> None:
    root = make_classes("root/train", (8, 8)).parent
    make_classes("root/val", (3, 3))
    make_classes("root/test", (3, 3))
    for broken in ("train/class0/003.png", "val/class1/001.png", "test/class0/000.png"):
        (root / broken).write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 22 image files cannot be used"):
        load(f"imagefolder:{root}")
    said: list[str] = []
    data = load(f"imagefolder:{root}", skip_broken=True, report=said.append)
    assert said[1].startswith("2 of 22 image files cannot be used, and are left out:\n")
    assert "class0/003.png" in said[1]
    assert (data.describe()["train"], data.describe()["validation"]) == (15, 5)
    assert data.describe()["ignored_files"] == 2
    assert len(data.test[1]) == 5
    assert "1 of 6 image files cannot be used, and are left out" in said[2]


def test_a_class_without_a_whole_file_is_an_error(make_classes) -> None:
    root = make_classes("root", (8, 2))
    for file in (root / "class1").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="class 'class1' has no image file that can be used"):
        load(f"imagefolder:{root}", skip_broken=True)


def test_sets_without_files_have_none_that_are_broken() -> None:
    with pytest.raises(ValueError, match="skip_broken must be False for digits, which has no image files"):
        load("digits", skip_broken=True)
