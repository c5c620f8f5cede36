"""The options of a recipe, which replace what its preset has."""

import dataclasses
import json

import pytest

from lasfast.cli import setup
from lasfast.cli.options import OneShotOptions, StepOptions, TrainingCommandOptions, names_of
from lasfast.cli.train import TrainCommandOptions
from lasfast.data import Augmentation
from lasfast.study.architecture_table import load_table
from lasfast.train import TrainSettings, preset

WITHOUT_OPTION = {"loss_scale", "augmentation"}
OF_SUPERNETS = names_of(OneShotOptions, StepOptions)


def test_every_setting_is_an_option():
    options = {field.name for field in dataclasses.fields(TrainCommandOptions)}
    for kind in (TrainSettings, Augmentation):
        names = {field.name for field in dataclasses.fields(kind)}
        assert names - options <= WITHOUT_OPTION | OF_SUPERNETS


def test_milestones_are_given_or_scaled():
    options = {"preset": "nir-cifar100", "standalone_epochs": 20}
    assert setup.make_settings(TrainingCommandOptions(**options)).milestones == (6, 12, 16)
    given = options | {"milestones": "5,7.5", "milestone_factor": 0.1}
    settings = setup.make_settings(TrainingCommandOptions(**given))
    assert (settings.milestones, settings.milestone_factor) == ((5, 7.5), 0.1)


def test_options_replace_what_the_preset_has():
    given = {
        "preset": "darts-retrain",
        "cutout": 8,
        "color_jitter": "0.4,0.2",
        "standalone_epochs": 6,
        "standalone_auxiliary": 0.0,
        "class_weights": "1,2.5",
        "optimizer": "adamw",
    }
    expected = preset(
        "darts-retrain",
        augmentation=Augmentation(crop="pad", flip=True, cutout=8, color_jitter=(0.4, 0.2)),
        standalone_epochs=6,
        standalone_auxiliary=0.0,
        class_weights=(1.0, 2.5),
        optimizer="adamw",
    )
    assert setup.make_settings(TrainingCommandOptions(**given)) == expected


@pytest.mark.parametrize(("dropout", "kept"), [(None, 0.5), (0.0, None), (0.3, None)])
def test_a_networks_own_dropout_replaces_the_presets(dropout, kept):
    options = TrainCommandOptions(architecture="1-1-1", preset="nir-tiny-imagenet", dropout=dropout)
    assert setup.make_settings(options).dropout == kept


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--color-jitter", "much"], "--color-jitter must be numbers with commas between them, got 'much'"),
        (["--class-weights", "even"], "--class-weights must be numbers with commas between them, got 'even'"),
        (["--milestones", "half"], "--milestones must be numbers with commas between them, got 'half'"),
        (["--milestones", "30"], "--milestones must all be before the last of the 20"),
        (["--class-weights", "1,2"], "--class-weights must be 10, one for each class, got 2"),
        (["--optimizer", "lamb"], "optimizer must be one of 'sgd', 'adamw', 'rmsprop', got 'lamb'"),
        (["--preset", "spos"], "--preset must be one of small, nir-cifar100"),
    ],
)
def test_what_does_not_fit_is_named(lasfast, few_images, tmp_path, arguments, text):
    status, _, err = lasfast("train", "1-1-1", "-o", tmp_path, *arguments)
    assert status == 2
    assert text in err


def test_a_recipe_trains(lasfast, few_images, without_exports, tmp_path):
    without_exports()
    recipe = ["--preset", "modern-small-images", "--batch-size", 64, "--standalone-epochs", 2]
    recipe += ["--standalone-keep-best", "--standalone-early-stopping", 1, "--standalone-drop-path", 0.1]
    recipe += ["--class-weights", "balanced", "--optimizer", "adamw", "--learning-rate", 0.002]
    status, _, err = lasfast("train", "1-1-1", "--threads", 1, "-o", tmp_path, *recipe)
    assert status == 0, err
    (row,) = load_table(tmp_path)
    assert row.epochs == 2
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    settings = header["dataset"]["settings"]
    assert settings["optimizer"] == "adamw"
    assert settings["standalone_ramp_epochs"] == 0.05
    assert settings["augmentation"] == {"auto_augment": "trivialaugment", "random_erasing": 0.1}
