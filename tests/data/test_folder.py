from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision import transforms
from torchvision.transforms import functional

from lasfast.data import Augmentation, DataError, FolderImages, FolderLoader, TrainingImages, augment, decode
from lasfast.data.check import check_files
from lasfast.data.folder import open_image_folder, scan
from lasfast.data.loaders import random_box
from lasfast.data.normalization import normalize
from lasfast.data.splits import derive_seed
from lasfast.data.training import on_device

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FORKING = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
FEW_CORES = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def truncate(path: Path, keep: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def test_scan_sorts_recurses_and_counts_what_it_ignores(make_classes):
    folder = make_classes("a", (2, 3))
    (folder / "class0" / "deep").mkdir()
    (folder / "class0" / "000.png").rename(folder / "class0" / "deep" / "x.PNG")
    (folder / "class1" / "notes.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    files = scan(folder)
    assert files.classes == ("class0", "class1")
    assert [Path(path).name for path in files.paths] == ["001.png", "x.PNG", "000.png", "001.png", "002.png"]
    assert files.labels.tolist() == [0, 0, 1, 1, 1]
    assert files.ignored == 1


def test_what_systems_leave_behind_is_no_image(make_classes):
    folder = make_classes("a", (2, 2))
    expected = scan(folder)
    for name in ("._000.png", ".DS_Store", ".hidden.jpg"):
        (folder / "class0" / name).write_bytes(b"\0\5\x16\7")
        (folder / name).write_bytes(b"\0")
    (folder / "class1" / ".thumbnails").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "class1" / ".thumbnails" / "000.png")
    assert scan(folder).paths == expected.paths
    assert scan(folder).ignored == 0
    (folder / "class0" / "Thumbs.db").write_bytes(b"\0")
    assert scan(folder).paths == expected.paths
    assert scan(folder).ignored == 1
    (folder / "class2").mkdir()
    (folder / "class2" / "._000.png").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"class2: no image in this class folder \(0 other files\)"):
        scan(folder)


def test_links_that_loop_are_passed_over(make_classes):
    folder = make_classes("a", (2, 2))
    expected = scan(folder)
    (folder / "class0" / "deep").mkdir()
    for link, target in [
        (folder / "class0" / "self", folder / "class0"),
        (folder / "class0" / "deep" / "up", folder / "class0"),
        (folder / "class1" / "all", folder),
        (folder / "class1" / "home", folder.parent),
        (folder / "every", folder),
        (folder / "class1" / "loop", folder / "class1" / "loop"),
    ]:
        link.symlink_to(target)
    files = scan(folder)
    assert (files.classes, files.paths) == (expected.classes, expected.paths)
    (folder / "class1" / "more").symlink_to(folder / "class0")
    assert len(scan(folder).paths) == 6  # a link to elsewhere is followed


def test_class_names_are_compared_in_one_form_of_unicode(make_classes):
    train, test = make_classes("root/train", (2, 2)), make_classes("root/test", (1, 1))
    (train / "class0").rename(train / "caf\xe9")
    (test / "class0").rename(test / "cafe\u0301")
    files = open_image_folder(train.parent).test()
    assert (files.classes, files.labels.tolist()) == (("caf\xe9", "class1"), [0, 1])
    (train / "class1").rename(train / "cafe\u0301")
    with pytest.raises(DataError, match=r"'cafe\\u0301' and 'caf\\xe9' have the same name, in two forms"):
        scan(train)


def test_unusable_folders_are_named(make_classes, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; expected .*train/<class>/<image>"):
        open_image_folder(tmp_path / "nowhere")
    one = make_classes("one", (3,))
    with pytest.raises(DataError, match=r"one: expected at least two class folders.*found only 'class0'"):
        open_image_folder(one)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"at least two class folders with images in them, found none"):
        open_image_folder(tmp_path / "none")
    empty = make_classes("empty", (3, 0))
    (empty / "class1" / "readme.md").write_text("")
    with pytest.raises(DataError, match=r"empty.class1: no image in this class folder \(1 other files\)"):
        open_image_folder(empty)


@pytest.mark.parametrize("tests", [["test"], ["val"], ["test", "val"]])
def test_test_part_is_test_or_else_val_and_found_on_demand(make_classes, tests):
    root = make_classes("root/train", (4, 4)).parent
    source = open_image_folder(root)
    assert source.parts.endswith("validation images held out of them, no test images")
    with pytest.raises(DataError, match="has no test images: expected class folders in"):
        source.test()
    for name in tests:
        make_classes(f"root/{name}", (0, 2) if name == "test" else (1, 1))
    if "test" in tests:
        (root / "test" / "class0").rmdir()
        (root / "test" / "class0x").mkdir()
        (root / "test" / "class1" / "000.png").rename(root / "test" / "class0x" / "000.png")
        with pytest.raises(DataError, match="test: class 'class0x' is not among the 2 classes"):
            source.test()
        (root / "test" / "class0x").rename(root / "test" / "class0")
    files = source.test()
    assert {Path(path).parts[-3] for path in files.paths} == {tests[0]}
    assert files.labels.tolist() == [0, 1]
    assert open_image_folder(root).parts.endswith(f"test images from {tests[0]}")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_val_beside_test_has_the_validation_images(make_classes, name):
    root = make_classes("root/train", (4, 4)).parent
    make_classes("root/test", (1, 1), seed=1)
    make_classes(f"root/{name}", (1, 2), seed=2)
    source = open_image_folder(root)
    assert source.training == 8
    assert {Path(path).parts[-3] for path in source.pool.paths[8:]} == {name}
    assert source.pool.labels[8:].tolist() == [0, 1, 1]
    assert f"validation images from {name}, test images from test" in source.parts
    (root / name / "class1").rename(root / name / "klass1")
    with pytest.raises(DataError, match="class 'klass1' is not among the 2 classes of the training images"):
        open_image_folder(root)


def test_without_a_train_folder_a_fifth_is_held_out_the_same_for_every_seed(make_classes):
    folder = make_classes("plain", (10, 20))
    source = open_image_folder(folder)
    held = source.test()
    assert np.bincount(held.labels).tolist() == [2, 4]
    assert np.bincount(source.pool.labels).tolist() == [8, 16]
    assert set(held.paths) | set(source.pool.paths) == set(scan(folder).paths)
    assert open_image_folder(folder).test().paths == held.paths


def test_a_class_may_be_called_train(make_classes):
    folder = make_classes("vehicles", (3, 3))
    (folder / "class0").rename(folder / "train")
    assert open_image_folder(folder).pool.classes == ("class1", "train")


def test_decoding_gives_the_pixels(make_classes):
    files = scan(make_classes("a", (5, 5), size=(7, 9)))
    images = decode.decode_exact(files.paths, 3, (7, 9))
    for path, image in zip(files.paths, images, strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture).transpose(2, 0, 1), image)


@pytest.mark.parametrize(
    ("mode", "suffix", "gray"),
    [
        ("1", ".png", True),
        ("L", ".png", True),
        ("L", ".jpg", True),
        ("P", ".png", False),
        ("RGBA", ".png", False),
        ("CMYK", ".jpg", False),
        ("RGB", ".webp", False),
        ("RGB", ".bmp", False),
        ("LA", ".png", True),
        ("RGB", ".gif", False),
    ],
)
def test_kinds_of_pixels(make_classes, mode, suffix, gray):
    files = scan(make_classes("a", (1, 1), mode=mode, suffix=suffix))
    assert [decode.read_kind(path) for path in files.paths] == [((8, 8), gray)] * 2
    for channels in (1, 3):
        images = decode.decode_exact(files.paths, channels, (8, 8))
        assert images.shape == (2, channels, 8, 8)
        assert images.float().std() > 0


def test_palette_with_transparency_is_read_without_a_warning(tmp_path):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "a.png", transparency=b"\x00\xff")
    image = decode.to_tensor(decode.open_image(str(tmp_path / "a.png"), 3))
    assert image[:, 0, 0].tolist() == [10, 20, 30]


def test_sixteen_bit_images_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    for read in (decode.read_kind, lambda path: decode.open_image(path, 1)):
        with pytest.raises(DataError, match=r"deep.png: pixels of kind 'I;16'; expected 8 bits a channel"):
            read(str(tmp_path / "deep.png"))


def test_of_an_animation_the_first_image_is_taken(tmp_path):
    pictures = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (10, 200)]
    for suffix in (".webp", ".gif", ".tif"):
        path = str(tmp_path / f"a{suffix}")
        pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True)
        assert decode.to_tensor(decode.open_image(path, 3))[:, 0, 0].tolist() == [10, 0, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation, suffix):
    pixels = np.zeros((24, 16), dtype=np.uint8)
    pixels[:12, :8] = 200  # top left
    picture, exif = Image.fromarray(pixels).convert("RGB"), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = str(tmp_path / f"a{suffix}")
    picture.save(path, exif=exif)
    turned = decode.to_tensor(decode.open_image(path, 1))[0]
    assert decode.read_kind(path).size == turned.shape == ((24, 16) if orientation < 5 else (16, 24))
    height, width = turned.shape
    bright = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        corner = turned[row * height // 2 :, column * width // 2 :][2 : height // 2 - 2, 2 : width // 2 - 2]
        assert (corner > 100).all() == ((row, column) == bright[orientation])
    assert torch.equal(decode.decode_cropped([path], 1, (height, width))[0, 0], turned)
    assert torch.equal(decode.decode_exact([path], 1, (height, width))[0, 0], turned)
    loader = FolderLoader([path], None, (height, width), (0.5,), (0.5,), workers=0, raw=True)
    assert torch.equal(next(iter(loader))[0, 0], turned)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"MM\0*\xff\xff\xff\xff", b"XX\0*\0\0\0\x08", b""])
def test_exif_data_that_cannot_be_read_change_nothing(tmp_path, exif):
    picture = Image.new("RGB", (8, 6), (90, 90, 90))
    picture.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    assert decode.read_kind(str(tmp_path / "a.jpg")) == ((6, 8), False)


def test_broken_files_are_named_all_at_once(make_classes):
    files = scan(make_classes("a", (9, 9), suffix=".jpg", size=(32, 32)))
    Path(files.paths[3]).write_bytes(b"this is not a picture")
    truncate(Path(files.paths[5]), 0.8)
    with pytest.raises(
        DataError,
        match=r"(?s)^2 of 18 image files cannot be used:\n  \S*003.jpg: not an image, or broken\n  "
        r"\S*005.jpg: cannot be decoded \(.*truncated.*\)\nRepair, replace or remove them. A study that "
        "began .* put them back as they were, or start it again in another directory$",
    ):
        decode.decode_exact(files.paths, 3, (32, 32))
    for path in files.paths[:13]:
        Path(path).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"(?s)13 of 18 image files.*class1.000.jpg: an empty file\n  and 3 more\nRepair"
    ):
        decode.decode_exact(files.paths, 3, (32, 32))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.symlink_to("nowhere.png"), r"cannot be read \(No such file.*; it is a link\)"),
        (lambda path: path.symlink_to(path), "cannot be read .*symbolic links; it is a link"),
        (lambda path: Image.new("1", (99, 99)).save(path), "exceeds limit.* PIL.Image.MAX_IMAGE_PIXELS"),
    ],
    ids=["empty", "link to nothing", "link to itself", "huge"],
)
def test_what_cannot_be_read_is_named(make_classes, monkeypatch, make, problem):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    folder = make_classes("a", (2, 2))
    make(folder / "class0" / "odd.png")
    with pytest.raises(DataError, match=rf"1 of 5 image files cannot be used:\n  \S*odd.png: .*{problem}"):
        check_files(scan(folder).paths)


def test_a_file_without_permission_is_named(make_classes, monkeypatch):
    files = scan(make_classes("a", (2, 2)))
    monkeypatch.setattr(Image, "open", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(DataError, match=r"4 of 4 .*\n  \S*000.png: cannot be read \(Permission denied\)"):
        decode.decode_exact(files.paths, 3, (8, 8))


def test_a_folder_without_permission_is_named(make_classes, monkeypatch):
    folder = make_classes("a", (2, 2))
    scandir = os.scandir

    def refuse(path):
        if path.endswith("class1"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"class1: this folder cannot be read \(Permission denied\)"):
        scan(folder)


def test_wrong_sizes_are_named(make_classes):
    files = scan(make_classes("a", (4, 4), size=(8, 10)))
    with Image.open(files.paths[6]) as picture:
        picture.resize((5, 6)).save(files.paths[6])
    with pytest.raises(DataError, match=r"7 of 8 are 10x8 pixels, but \S*002.png is 5x6; pass image_size"):
        decode.common_size(files.paths, check_files(files.paths))
    with pytest.raises(DataError, match=r"002.png: 5x6 pixels; expected 10x8"):
        decode.decode_exact(files.paths, 3, (8, 10))


@pytest.mark.parametrize("size", [(300, 400), (500, 260), (100, 80), (224, 224)])
def test_center_crop_is_torchvisions(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    ours = decode.center_crop(picture, (224, 224))
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(picture)
    expected = picture if size == (224, 224) else theirs
    assert np.array_equal(np.asarray(ours), np.asarray(expected))


@pytest.fixture
def files(make_classes):
    return scan(make_classes("large", (9, 9), size=(40, 30), suffix=".jpg"))


def folder_images(files, **options):
    return FolderImages(files.paths, torch.from_numpy(files.labels), (16, 12), MEAN, STD, **options)


@FORKING
@FEW_CORES
def test_folder_batches_do_not_depend_on_workers_start_or_global_state(files):
    data = folder_images(files, workers=0)
    assert isinstance(data, TrainingImages)
    assert (len(data), data.num_batches(4), data.num_batches(40)) == (18, 4, 1)
    before = torch.get_rng_state()
    whole = list(data.batches(4, 7))
    assert torch.equal(before, torch.get_rng_state())
    assert [images.shape for images, _ in whole] == [(4, 3, 16, 12)] * 4
    other = next(data.batches(4, 8))
    assert not torch.equal(whole[0][0], other[0])
    for workers, start in ((0, 0), (0, 2), (2, 0), (1, 3)):
        again = list(folder_images(files, workers=workers).batches(4, 7, start))
        assert len(again) == 4 - start
        for (a, b), (c, d) in zip(whole[start:], again, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)
    assert list(data.batches(4, 7, 4)) == []


def test_folder_crops_equal_torchvisions_functions_on_the_same_boxes(files):
    data = folder_images(files, workers=0)
    (images, _), *_ = data.batches(18, 5)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(derive_seed("order", 5))).tolist()
    flips = 0
    for image, index in zip(images, order, strict=True):
        rng = random.Random(derive_seed("item", 5, index))
        picture = decode.open_image(files.paths[index], 3)
        crop = functional.resized_crop(picture, *random_box(40, 30, rng), [16, 12])
        if rng.random() < 0.5:
            crop = functional.hflip(crop)
            flips += 1
        expected = functional.normalize(functional.to_tensor(crop), MEAN, STD)
        torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)
    assert 0 < flips < 18


def test_boxes_of_files_have_the_distribution_of_the_batched_ones():
    rng = random.Random(0)
    one_by_one = torch.tensor([random_box(64, 48, rng) for _ in range(4000)]).double()
    batched = augment.draw_boxes(4000, 64, 48, torch.Generator().manual_seed(0)).double()
    error = batched.std(0) * (2 / 4000) ** 0.5
    assert ((one_by_one.mean(0) - batched.mean(0)).abs() < 5 * error).all()
    assert random_box(10, 1000, rng) in [augment.central_box(10, 1000)]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_fast_decoding_cuts_the_same_boxes(tmp_path, suffix, mode, orientation):
    """Of an image that is smooth, so that rounding is all that differs, and may be decoded at a quarter."""
    ramp = np.add.outer(np.linspace(0, 150, 600), np.linspace(0, 100, 400))
    pixels = np.stack([ramp, ramp.max() - ramp, ramp / 2], 2).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = str(tmp_path / f"image{suffix}")
    Image.fromarray(pixels).convert(mode).save(path, exif=exif)
    options = (torch.zeros(12, dtype=torch.int64), (40, 50), MEAN if mode == "RGB" else MEAN[:1])
    exact, fast = (
        FolderImages([path] * 12, *options, [1.0] * len(options[-1]), workers=0, fast_decode=one)
        for one in (False, True)
    )
    (images, _), (others, _) = (next(data.batches(12, 3)) for data in (exact, fast))
    assert images.shape == others.shape
    assert (images - others).abs().max() < 4 / 255
    assert not torch.equal(images, others)
    assert len({tuple(image.flatten().tolist()) for image in others}) == 12  # each has a box of its own


def test_fast_decoding_decodes_no_more_than_is_needed(tmp_path, monkeypatch):
    decoded = []
    turn = decode._turn_upright
    monkeypatch.setattr(decode, "simplejpeg", None)
    monkeypatch.setattr(decode, "_turn_upright", lambda image: (decoded.append(image.size), turn(image)))
    Image.new("RGB", (803, 602)).save(tmp_path / "image.jpg")
    for side, size in ((600, (803, 602)), (301, (402, 301)), (150, (201, 151)), (20, (101, 76))):
        box = decode.open_box(str(tmp_path / "image.jpg"), 3, lambda h, w: (0, 0, h, w), (side, side))
        assert box.shape == (3, side, side)
        assert decoded.pop() == size


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}])
def test_simplejpeg_decodes_to_the_pixels_of_pillow(tmp_path, monkeypatch, options, gray):
    pytest.importorskip("simplejpeg")
    ramp = np.add.outer(np.arange(301), np.arange(403)) % 256
    noise = np.random.default_rng(0).integers(0, 80, (301, 403, 3))
    pixels = np.clip(ramp[..., None] + noise, 0, 255).astype(np.uint8)
    path, channels = str(tmp_path / "a.jpg"), 1 if gray else 3
    Image.fromarray(pixels).convert("L" if gray else "RGB").save(path, quality=90, **options)
    boxes = [(0, 0, 301, 403), (100, 50, 150, 301)]
    sizes = [(400, 400), (150, 150), (70, 70), (20, 30)]  # decoded whole, and at 1/2, 1/4 and 1/8

    def read():
        drawn = [lambda *sides, box=box: box for box in boxes]
        cut = [decode.open_box(path, channels, draw, size) for draw in drawn for size in sizes]
        return [decode.to_tensor(decode.open_image(path, channels)), *cut]

    with patch.object(decode.simplejpeg, "decode_jpeg", wraps=decode.simplejpeg.decode_jpeg) as called:
        ours = read()
    assert called.call_count == 9
    monkeypatch.setattr(decode, "simplejpeg", None)
    for one, other in zip(ours, read(), strict=True):
        assert torch.equal(one, other)


def test_fast_decoding_is_described_and_kept(files):
    plain, fast = folder_images(files), folder_images(files, fast_decode=True)
    assert "fast_decode" not in plain.describe()
    assert fast.describe() == plain.describe() | {"fast_decode": True}
    assert fast.subset(torch.arange(3)).fast_decode
    assert fast.augmented(Augmentation(flip=False)).fast_decode


@FORKING
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_broken_while_training_is_named(files, workers, fast):
    truncate(Path(files.paths[4]))
    with pytest.raises(
        DataError, match=r"^\S*004.jpg: cannot be decoded \((?i:.*truncated).*\); put the file back as it was"
    ):
        list(folder_images(files, workers=workers, fast_decode=fast).batches(6, 0))


@FORKING
@FEW_CORES
def test_loader_is_re_iterable_and_does_not_depend_on_workers(files):
    labels = torch.from_numpy(files.labels)
    loader = FolderLoader(files.paths, labels, (16, 12), MEAN, STD, batch_size=7, workers=0)
    assert len(loader) == 3
    first, again = list(loader), list(loader)
    parallel = list(FolderLoader(files.paths, labels, (16, 12), MEAN, STD, batch_size=7, workers=2))
    assert [len(batch[1]) for batch in first] == [6, 6, 6]
    for one, two, three in zip(first, again, parallel, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[0], three[0])
    assert torch.equal(torch.cat([batch[1] for batch in first]), labels)
    expected = normalize(decode.decode_cropped(files.paths, 3, (16, 12)), MEAN, STD)
    assert torch.equal(torch.cat([batch[0] for batch in first]), expected)
    unlabelled = FolderLoader(files.paths, None, (16, 12), MEAN, STD, batch_size=18, workers=0)
    assert torch.equal(next(iter(unlabelled)), expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"paths": []}, ValueError, "paths must name at least one image file"),
        ({"labels": torch.zeros(3)}, ValueError, r"labels must be \[2\], one per file, got shape \(3,\)"),
        ({"mean": (0.5, 0.5)}, ValueError, "mean and std must have 1 or 3 values each"),
        ({"std": (0.5, 0.5, -1.0)}, ValueError, "std must be positive"),
        ({"workers": -1}, ValueError, "workers must be at least 0, got -1"),
        ({"workers": 1.5}, TypeError, "workers must be an int, got 1.5"),
    ],
)
@pytest.mark.parametrize("kind", [FolderImages, FolderLoader])
def test_bad_arguments_are_named(kind, changes, error, message):
    good = {
        "paths": ["a.png", "b.png"],
        "labels": torch.zeros(2, dtype=torch.int64),
        "size": (8, 8),
        "mean": MEAN,
        "std": STD,
    }
    with pytest.raises(error, match=message):
        kind(**{**good, **changes})


def test_batches_for_a_gpu_come_from_pinned_memory(files, monkeypatch):
    """As bytes, which the GPU normalizes; that the bits are the same needs one, below."""
    data = folder_images(files, workers=0)
    made = Mock(side_effect=ZeroDivisionError)
    monkeypatch.setattr("lasfast.data.loaders.DataLoader", made)
    for device in ("cpu", "cuda"):
        with pytest.raises(ZeroDivisionError):
            list(data.to(device).subset(torch.arange(4)).batches(4, 0))
    assert [call.kwargs["pin_memory"] for call in made.call_args_list] == [False, True]


def test_training_moves_images_of_files(files):
    data = folder_images(files, workers=0)
    moved = on_device(data, torch.device("cuda"))
    assert isinstance(moved, FolderImages)
    assert moved.device.type == "cuda"
    assert moved.describe() == data.describe()
    assert data.device.type == "cpu"
    there = data.to("meta")
    assert next(there.batches(4, 0))[0].device.type == "meta"


@pytest.mark.cuda
@FORKING
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_on_a_gpu_are_those_of_the_cpu(files, workers):
    augmentation = Augmentation(random_erasing=0.5)
    data = folder_images(files, workers=workers, augmentation=augmentation)
    for (images, labels), (expected, own) in zip(
        data.to("cuda").batches(6, 0), data.batches(6, 0), strict=True
    ):
        assert images.device.type == labels.device.type == "cuda"
        assert torch.equal(images.cpu(), expected)
        assert torch.equal(labels.cpu(), own)
