"""Predictions of image files."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from lasfast.data import DataError
from lasfast.deploy import DeployedModel
from lasfast.deploy.classify import Prediction, classify, find_images, read_image
from tests.deploy.test_export import make_card

CARD = make_card(classes=("dark", "bright"), image_size=(8, 8), channels=1, mean=(0.5,), std=(0.2,))


def brightness(images: torch.Tensor) -> torch.Tensor:
    bright = images.float().mean((1, 2, 3)) / 64 - 2
    return torch.stack([-bright, bright], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level in (("dark", 10), ("bright", 250)):
        (tmp_path / name / "deeper").mkdir(parents=True)
        for number in range(2):
            place = tmp_path / name / ("deeper" if number else "")
            Image.new("RGB", (9 + number, 12), (level,) * 3).save(place / f"{number}.png")
        (tmp_path / name / "notes.txt").touch()
    return tmp_path


def test_folders_are_labels(folder: Path) -> None:
    found = find_images([folder], CARD.classes)
    assert [(Path(path).name, label) for path, label in found] == [
        ("0.png", 1),
        ("1.png", 1),
        ("0.png", 0),
        ("1.png", 0),
    ]
    assert find_images([folder / "dark"], CARD.classes)[0][1] is None  # "dark" is not below it
    predictions = list(classify(DeployedModel(CARD, brightness), found))
    assert [one.top(1)[0][0] for one in predictions] == [1, 1, 0, 0]
    for one in predictions:
        assert float(one.probabilities.sum()) == pytest.approx(1)
        assert [number for number, _ in one.top(5)] == [one.label, 1 - one.label]


def test_a_broken_file_is_named_and_the_others_are_predicted(folder: Path) -> None:
    (folder / "dark" / "0.png").write_bytes(b"nothing")
    found = list(classify(DeployedModel(CARD, brightness), find_images([folder], CARD.classes)))
    assert [type(one) for one in found] == [Prediction, Prediction, DataError, Prediction]
    assert "dark/0.png: not an image, or broken" in str(found[2])
    assert [one.label for one in found if isinstance(one, Prediction)] == [1, 1, 0]


def test_there_must_be_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file or folder"):
        find_images([tmp_path / "nowhere"], CARD.classes)
    with pytest.raises(ValueError, match=f"there is no image in {tmp_path}"):
        find_images([tmp_path], CARD.classes)


@pytest.mark.parametrize("crop_pct", [1.0, 0.5])
def test_images_are_cropped_as_the_card_says(tmp_path: Path, crop_pct: float) -> None:
    """Of a ramp, the crop has the middle: as much as the shorter side has, or half of it, enlarged."""
    ramp = Image.new("L", (24, 8))
    ramp.putdata([10 * x for _ in range(8) for x in range(24)])
    ramp.save(tmp_path / "ramp.png")
    card = make_card(channels=1, image_size=(8, 8), crop_pct=crop_pct)
    row = read_image(str(tmp_path / "ramp.png"), card)[0, 4].float() / 10
    assert float(row.mean()) == pytest.approx(11.5, abs=0.1)  # the middle of columns 0 to 23
    assert float(row[-1] - row[0]) / 7 == pytest.approx(crop_pct, abs=0.05)
