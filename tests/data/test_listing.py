"""Lists of folders that are kept: they are taken only where nothing can have changed."""

import json
import os
import shutil
from unittest.mock import patch

import pytest

from lasfast.core import cache
from lasfast.data import DataError, listing, load
from lasfast.data.folder import open_image_folder
from lasfast.data.listing import Folders

OLD = 10**18  # ns: in 2001


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """Lists of any length are kept, in a directory of the test, and no folder is too young for it."""
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "MANY", 1)
    monkeypatch.setattr(listing, "SETTLED", -(10**18))


def listed(path, **options):
    """What is found, and which folders were read for it."""
    with patch.object(listing.os, "scandir", wraps=os.scandir) as scandir:
        source = open_image_folder(path, **options)
        test = source.test()
    read = sorted(os.path.relpath(call.args[0], path) for call in scandir.call_args_list)
    # Beside the lists, whether there is a part "train" or "val" is looked up each time.
    return (source.pool.paths, source.pool.labels.tolist(), source.pool.ignored, test.paths), read


@pytest.fixture
def folder(make_classes, tmp_path):
    make_classes("photos/train", (3, 2))
    make_classes("photos/val", (2, 2))
    (tmp_path / "photos" / "train" / "class0" / "more").mkdir()
    shutil.copy(tmp_path / "photos/train/class0/000.png", tmp_path / "photos/train/class0/more/x.png")
    return tmp_path / "photos"


def add(folder):
    shutil.copy(folder / "train/class0/000.png", folder / "train/class0/more/new.png")


def rename(folder):
    (folder / "train/class1/001.png").rename(folder / "train/class1/zzz.png")


def remove(folder):
    (folder / "val/class0/000.png").unlink()


def add_and_set_back(folder):
    """As `tar` and `rsync -t` leave the time of modification."""
    inner = folder / "train" / "class1"
    before = inner.stat()
    shutil.copy(folder / "train/class0/000.png", inner / "new.png")
    os.utime(inner, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_folder(folder):
    inner = folder / "train" / "class1"
    shutil.copytree(inner, folder / "other")
    (folder / "other" / "000.png").rename(folder / "other" / "aaa.png")
    shutil.rmtree(inner)
    (folder / "other").rename(inner)


def add_class(folder):
    shutil.copytree(folder / "train/class1", folder / "train/class2")


CHANGES = {
    add: "train/class0/more",
    rename: "train/class1",
    remove: "val/class0",
    add_and_set_back: "train/class1",
    replace_folder: "train/class1",
    add_class: "train/class2",
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_changed_is_listed_again(folder, change):
    first, read = listed(folder)
    assert {"train/class0", "train/class0/more", "train/class1", "val/class0"} <= set(read)
    again, read = listed(folder)
    assert again == first
    assert not any("class" in one for one in read)
    change(folder)
    changed, read = listed(folder)
    assert changed != first
    assert CHANGES[change] in read
    assert "val/class1" not in read
    assert changed == listed(folder, list_anew=True)[0]
    assert changed == listed(folder)[0]


def test_what_is_taken_from_before_is_said(folder):
    assert "did not change" not in open_image_folder(folder).parts
    assert "; 4 of 4 folders did not change since they were listed (list_anew=True" in (
        open_image_folder(folder).parts
    )
    assert "did not change" not in open_image_folder(folder, list_anew=True).parts


def test_a_link_that_leads_to_something_else(folder, tmp_path):
    shutil.copytree(folder / "train/class1", tmp_path / "target")
    (folder / "train/class1/linked").symlink_to(tmp_path / "target")
    first, _ = listed(folder)
    assert any("linked/000.png" in path for path in first[0])
    shutil.rmtree(tmp_path / "target")
    (tmp_path / "target").write_text("no folder any more")
    changed, _ = listed(folder)
    assert not any("linked/" in path for path in changed[0])
    assert changed[2] == first[2] + 1
    (tmp_path / "target").unlink()
    shutil.copytree(folder / "train/class0/more", tmp_path / "target")
    assert any("linked/x.png" in path for path in listed(folder)[0][0])


@pytest.mark.parametrize("what", ["young", "without times", "few"])
def test_what_may_change_unseen_is_not_kept(folder, monkeypatch, what):
    if what == "young":
        monkeypatch.setattr(listing, "SETTLED", 2 * 10**9)
    elif what == "without times":
        monkeypatch.setattr(listing, "EARLIEST", 4 * 10**18)
    else:
        monkeypatch.setattr(listing, "MANY", 1000)
    _, read = listed(folder)
    assert listed(folder)[1] == read


def test_names_of_any_bytes_are_kept(folder):
    os.rename(
        os.fsencode(folder / "train/class0/001.png"), os.fsencode(folder / "train/class0") + b"/\xff\n.png"
    )
    first, _ = listed(folder)
    again, read = listed(folder)
    assert again == first
    assert not any("class" in one for one in read)
    assert any("\udcff\n" in path for path in again[0])


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 2}', '{"format": 1, "folders": {}}', '{"format": 2, "entries": []}']
)
def test_a_damaged_file_is_made_again(folder, content, caplog):
    first, read = listed(folder)
    [file] = cache.directory().glob("folders-*.json")
    file.write_text(content)
    assert listed(folder) == (first, read)
    assert ("cannot be read" in caplog.text) == ('"format": 1' not in content)
    assert json.loads(file.read_text())["format"] == listing.FORMAT


def test_a_cache_that_cannot_be_written(folder, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path / "file"))
    first, _ = listed(folder)
    assert first == listed(folder)[0]
    assert "cannot be written" in caplog.text


def test_a_folder_that_is_gone_is_named(folder):
    folders = Folders(folder)
    folders.entries(str(folder / "train"))
    shutil.rmtree(folder / "train")
    with pytest.raises(DataError, match="train: this folder cannot be read"):
        folders.entries(str(folder / "train"))


def test_load_lists_anew_where_it_is_asked(folder):
    told = []
    for anew in (False, False, True):
        load(f"imagefolder:{folder}", list_anew=anew, report=told.append, validation=2)
    assert [("did not change" in text) for text in told] == [False, True, False]
    with pytest.raises(ValueError, match="list_anew must be False for digits, whose files are not listed"):
        load("digits", list_anew=True)
    with pytest.raises(TypeError, match="list_anew must be True or False, got 1"):
        load(f"imagefolder:{folder}", list_anew=1)
