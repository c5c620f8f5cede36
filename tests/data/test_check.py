"""Files are checked when a set is loaded, and what was found is remembered."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

import lasfast
from lasfast import searchers, supernets, train
from lasfast.data import DataError, check, load
from lasfast.data.check import check_files
from lasfast.data.decode import read_kind
from lasfast.data.folder import open_image_folder, scan
from lasfast.measurements.journal import JournalError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded by checks."""
    names: list[str] = []

    def read(path: str):
        names.append(Path(path).name)
        return read_kind(path)

    monkeypatch.setattr(check, "read_kind", read)
    return names


def test_a_file_is_decoded_once_until_it_changes(make_classes, decoded) -> None:
    folder = make_classes("a", (3, 2), mode="L")
    paths = scan(folder).paths
    found = check_files(paths)
    assert found == [((8, 8), True)] * 5
    assert sorted(decoded) == ["000.png", "000.png", "001.png", "001.png", "002.png"]
    decoded.clear()
    assert check_files(paths) == found
    assert check_files(paths[1:]) == found[1:]
    assert decoded == []
    Image.new("RGB", (9, 7)).save(folder / "class0" / "002.png")
    assert check_files(paths)[2] == ((7, 9), False)
    os.utime(folder / "class1" / "001.png", ns=(1, 1))
    check_files(paths)
    assert decoded == ["002.png", "001.png"]


def test_broken_files_are_checked_again_and_others_are_kept(make_classes, decoded) -> None:
    folder = make_classes("a", (3, 3))
    broken = folder / "class1" / "001.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(DataError, match=r"(?s)1 of 6 .*class1.001.png: cannot be decoded"):
            check_files(scan(folder).paths)
    assert len(decoded) == 7
    broken.write_bytes(whole)
    assert len(check_files(scan(folder).paths)) == 6
    assert len(decoded) == 8


def test_an_interrupted_check_keeps_what_it_found(make_classes, decoded, monkeypatch) -> None:
    paths = scan(make_classes("a", (3, 3))).paths
    monkeypatch.setattr(check, "CHUNK", 2)
    monkeypatch.setattr(check, "SECONDS", 0.0)

    def stop(text: str) -> None:
        if " 4 of 6" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_files(paths, stop)
    decoded.clear()
    lines: list[str] = []
    check_files(paths, lines.append)
    assert decoded == ["001.png", "002.png"]
    assert lines == ["checking image files, once: 2 of 2, 0 minutes left"]


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY"])
def test_a_damaged_cache_costs_only_the_check(make_classes, cache, caplog, decoded, content) -> None:
    paths = scan(make_classes("a", (1, 1))).paths
    check_files(paths)
    [file] = cache.iterdir()
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="lasfast"):
        check_files(paths)
    assert f"{file} cannot be read" in caplog.text
    check_files(paths)
    assert len(decoded) == 4


@pytest.mark.parametrize("size", [40, 120])
def test_names_need_not_be_utf_8(make_classes, size) -> None:
    root = make_classes("a", (12, 12), size=(size, size))
    folder = os.fsdecode(os.fsencode(root) + b"-caf\xe9")
    root.rename(folder)
    for place in Path(folder).iterdir():
        (place / "003.png").rename(os.fsdecode(os.fsencode(place) + b"/\xe9.png"))
        place.rename(os.fsdecode(os.fsencode(place) + b"\xe9"))
    data = load(f"imagefolder:{folder}", workers=0)
    assert data.num_classes == 2
    assert len(list(data.train.batches(4, 0))) == 4
    assert load(f"imagefolder:{folder}", workers=0).describe() == data.describe()
    str(data).encode()
    broken = next(path for path in open_image_folder(Path(folder)).pool.paths if "\udce9.png" in path)
    Path(broken).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"caf\\udce9/class\d\\udce9/\\udce9.png: ") as caught:
        load(f"imagefolder:{folder}")
    str(caught.value).encode()


@pytest.mark.parametrize("size", [8, 120])
def test_a_study_whose_images_are_not_the_same_says_how_to_go_on(make_classes, tmp_path, size) -> None:
    """Removing a broken file, or changing one, makes another study; putting it back makes the same."""
    root = make_classes("images", (10, 10), size=(size, size))

    def run(resume: bool) -> dict:
        data = load(f"imagefolder:{root}", image_size=8, workers=0, batch_size=9)
        supernet = supernets.ResidualNet((1, 1, 2), data.num_classes)
        evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation, backend="torch")
        searcher = searchers.Random(supernet.space, depth=3, samples=1)
        trainer = train.SupernetTrainer(supernet, data.train, "small", warm_up_epochs=1, epochs_per_step=1)
        return lasfast.Study(searcher, evaluator, trainer, tmp_path / "study").run(resume=resume).to_json()

    expected = run(False)
    path = Path(open_image_folder(root).pool.paths[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"(?s)put them back as they were, or start it again in another dir"):
        run(True)
    path.unlink()
    advice = "put the images back as they were"
    with pytest.raises(JournalError, match=rf"study with other settings: (trainer|eval).*{advice}"):
        run(True)
    Image.new("RGB", (size, size)).save(path)
    with pytest.raises(JournalError, match=rf"study with other settings: (trainer|eval).*{advice}"):
        run(True)
    path.write_bytes(whole)
    assert run(True) == expected


def test_a_pipe_among_the_images_is_named(make_classes) -> None:
    """Reading it would wait for ever."""
    root = make_classes("images", (10, 10), size=(8, 8))
    os.mkfifo(root / "class0" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: this is no file; expected an image"):
        load(f"imagefolder:{root}")
