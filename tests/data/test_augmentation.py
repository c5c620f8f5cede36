"""What varies images beyond crop and flip, wherever and in whatever batch an image is."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lasfast.data import Augmentation, FolderImages, TensorImages
from lasfast.data.splits import derive_seed
from lasfast.data.training import PairImages, augmented
from lasfast.train import StandaloneTrainer, TrainSettings

SIZE = 8
EVERY = [
    Augmentation(color_jitter=(0.4, 0.4, 0.4, 0.2)),
    Augmentation(auto_augment="randaugment", randaugment_layers=1, randaugment_magnitude=15),
    Augmentation(auto_augment="trivialaugment", crop="resized"),
    Augmentation(random_erasing=0.5),
    Augmentation(cutout=3, crop="pad", flip=True),
]


def raw(count=12, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def images(count=12, channels=3, **options):
    """Each image has its number as its label."""
    values = raw(count, channels)
    options = {"pad": 0, "flip": False} | options
    return TensorImages(values, torch.arange(count), [0.5] * channels, [0.25] * channels, **options)


def by_number(data, batch_size, seed=3):
    """The image of each number in an epoch."""
    found = {}
    for values, labels in data.batches(batch_size, seed):
        found |= dict(zip(labels.tolist(), values, strict=True))
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[number], other[number]) for number in one)


@pytest.mark.parametrize("augmentation", EVERY)
def test_what_happens_to_an_image_depends_on_seed_and_number_alone(augmentation):
    crops = {"crop": "data", "flip": None}  # which are drawn batch by batch
    still = Augmentation(**{**vars(augmentation), **crops})
    data = augmented(images(), still)
    found = by_number(data, 4)
    assert same(found, by_number(data, 6))
    assert not same(found, by_number(data, 4, seed=4))
    assert not same(found, by_number(images(), 4))

    data = augmented(images(), augmentation)
    whole = list(data.batches(5, 7))
    for values, labels, size in data.shards(5, 7, 1, lambda count: slice(1, 3)):
        assert size == 5
        assert torch.equal(values, whole[1][0][1:3])
        assert torch.equal(labels, whole[1][1][1:3])
    assert data.describe() == images().describe() | {
        "pad": 1 if augmentation.crop == "pad" else 0,
        "flip": bool(augmentation.flip),
        "resized_crop": augmentation.crop == "resized",
        "augmentation": augmentation.describe(),
    }
    assert data.subset(torch.arange(3)).augmentation == data.to("cpu").augmentation == augmentation


def test_colors_are_torchvisions():
    augmentation, transform = EVERY[0], v2.ColorJitter(0.4, 0.4, 0.4, 0.2)
    found = by_number(augmented(images(), augmentation), 4)
    for number, image in enumerate(raw()):
        torch.manual_seed(derive_seed("colors", 3, number))
        expected = (transform(image).float() / 255 - 0.5) / 0.25
        torch.testing.assert_close(found[number], expected)


def test_torchs_generator_is_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for augmentation in EVERY:
        list(augmented(images(), augmentation).batches(4, 0))
    assert torch.equal(torch.rand(3), expected)


def test_gray_images_have_colors_too():
    for augmentation in EVERY:
        for values in by_number(augmented(images(channels=1), augmentation), 4).values():
            assert values.shape == (1, SIZE, SIZE)
            assert values.isfinite().all()


def test_boxes_become_zeros_and_the_rest_stays():
    plain = by_number(images(200), 4)
    erased = by_number(augmented(images(200), Augmentation(random_erasing=0.5)), 4)
    parts = [((erased[n] == 0) & (plain[n] != 0)).all(0).float().mean().item() for n in plain]
    assert 0.35 < sum(part > 0 for part in parts) / len(parts) < 0.65
    assert all(part <= 0.45 for part in parts)  # 0.33, rounded to whole pixels
    cut = by_number(augmented(images(200), Augmentation(cutout=3)), 4)
    sizes = set()
    for number, image in plain.items():
        hidden = (cut[number] != image).any(0)
        assert torch.equal(cut[number], torch.where(hidden, 0, image))
        rows, columns = hidden.any(1), hidden.any(0)
        assert torch.equal(hidden, rows[:, None] & columns)
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert sizes == {(a, b) for a in (2, 3) for b in (2, 3)}


def test_crops_and_flips_replace_the_sets():
    own = images(pad=2, flip=True)
    assert augmented(own, Augmentation()) is own
    assert same(by_number(augmented(own, Augmentation(crop="none", flip=False)), 4), by_number(images(), 4))
    expected = by_number(images(resized_crop=True, flip=True), 4)
    assert same(by_number(augmented(own, Augmentation(crop="resized")), 4), expected)
    assert augmented(images(), Augmentation(crop="pad")).pad == 1
    assert augmented(own, Augmentation(crop="pad", flip=False)).pad == 2


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, image in enumerate(raw(6)):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(paths[-1])
    return paths


@pytest.mark.parametrize("augmentation", EVERY[:4])
def test_files_are_varied_alike_by_any_number_of_workers(files, augmentation):
    def read(workers, augmentation=augmentation):
        data = FolderImages(files, torch.arange(6), (8, 8), [0.5] * 3, [0.25] * 3, workers=workers)
        return by_number(augmented(data, augmentation), 2)

    assert same(read(0), read(1))
    assert not same(read(0), read(0, Augmentation()))


def test_what_cannot_be_varied_is_refused(files):
    folder = FolderImages(files, torch.arange(6), (8, 8), [0.5] * 3, [0.25] * 3, workers=0)
    pair = PairImages(torch.randn(4, 3, 8, 8), torch.arange(4))
    floats = TensorImages(torch.rand(4, 3, 8, 8), torch.arange(4), [0.5] * 3, [0.25] * 3)
    with pytest.raises(ValueError, match=r"crop must be 'data' or 'resized' for .* files .* got 'pad'"):
        augmented(folder, Augmentation(crop="pad"))
    with pytest.raises(ValueError, match=r"images must be uint8 of 1 or 3 .*, got torch.float32 of 3"):
        augmented(floats, Augmentation(auto_augment="trivialaugment"))
    settings = TrainSettings(augmentation=Augmentation(cutout=2))
    with pytest.raises(ValueError, match=r"augmentation must be Augmentation\(\) for images .* PairImages"):
        StandaloneTrainer(torch.nn.Linear(3, 2), pair, settings)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"crop": "center"}, "crop must be one of 'data', 'pad', 'resized', 'none', got 'center'"),
        ({"auto_augment": "auto"}, "auto_augment must be one of 'none', 'randaugment', .* got 'auto'"),
        ({"flip": 1}, "flip must be True or False, got 1"),
        ({"color_jitter": (0.1,) * 5}, "color_jitter must be up to four numbers, brightness, .* got"),
        ({"color_jitter": 0.4}, "color_jitter must be up to four numbers, .* got 0.4"),
        ({"color_jitter": (0, 0, 0, 0.6)}, "color_jitter must have a hue of at most 0.5, got 0.6"),
        ({"color_jitter": (-1,)}, "color_jitter must be at least 0, got -1"),
        ({"randaugment_layers": 0}, "randaugment_layers must be at least 1, got 0"),
        ({"randaugment_magnitude": 31}, "randaugment_magnitude must be from 0 to 30, got 31"),
        ({"random_erasing": 1.5}, "random_erasing must be from 0 to 1, got 1.5"),
        ({"cutout": 2.5}, "cutout must be an int, got 2.5"),
    ],
)
def test_bad_values_are_named(values, text):
    with pytest.raises((ValueError, TypeError), match=text):
        Augmentation(**values)
