import pytest

from lasfast.data import Augmentation
from lasfast.train import PRESETS, TrainSettings, preset
from lasfast.train.presets import resolve
from lasfast.train.settings import LATER


def test_cifar100_is_as_printed():
    settings = preset("cifar100")
    assert settings.batch_size == 128
    assert settings.learning_rate == 0.1
    assert settings.learning_rate / 2 == 0.05  # "the base learning rate is set to 0.05 ... for each step"
    assert (settings.momentum, settings.nesterov, settings.weight_decay) == (0.9, True, 0.0005)
    assert (settings.warm_up_epochs, settings.epochs_per_step) == (60, 10)
    assert settings.standalone_epochs == 200
    assert (settings.milestones, settings.milestone_factor) == ((60, 120, 160), 0.2)


def test_tiny_imagenet_is_as_printed():
    settings = preset("tiny-imagenet")
    assert (settings.batch_size, settings.learning_rate, settings.weight_decay) == (256, 0.1, 0.0001)
    assert (settings.standalone_epochs, settings.milestones) == (200, (100, 150, 175))
    assert settings.milestone_factor == 0.1
    assert preset("tiny-imagenet-resnet50") == settings.replace(weight_decay=0.0005)


def test_imagenet_is_as_printed():
    settings = preset("imagenet")
    assert (settings.batch_size, settings.learning_rate, settings.weight_decay) == (7 * 128, 0.6, 0.00004)
    assert (settings.warm_up_epochs, settings.epochs_per_step, settings.standalone_epochs) == (60, 10, 90)
    assert settings.milestones == preset("tiny-imagenet", standalone_epochs=90).milestones


def test_names_of_papers_have_what_is_beside_the_settings_of_old():
    assert preset("nir-cifar100") == preset("cifar100") == TrainSettings()
    for name in ("tiny-imagenet", "tiny-imagenet-resnet50", "imagenet"):
        crop = Augmentation(crop="resized", flip=True)  # "RandomResizedCrop function with default settings"
        assert preset(f"nir-{name}") == preset(name, dropout=0.5, augmentation=crop)  # "dropout ratio 0.5"
    assert preset("darts-search") == preset("darts")


def test_single_path_one_shot_is_as_printed():
    settings = preset("spos-supernet")
    assert settings == preset("spos-retrain")
    assert (settings.batch_size, settings.learning_rate, settings.weight_decay) == (1024, 0.5, 4e-5)
    assert (settings.supernet_epochs, settings.supernet_schedule) == (120, "linear")
    assert (settings.standalone_epochs, settings.standalone_schedule) == (240, "linear")


def test_layernas_is_as_printed():
    final, proxy = preset("layernas-final"), preset("layernas-proxy")
    assert (final.optimizer, final.momentum, final.learning_rate) == ("rmsprop", 0.9, 2.64)
    assert (final.batch_size, final.standalone_epochs, final.standalone_schedule) == (4096, 500, "cosine")
    assert final.standalone_ramp_epochs == 12.5
    assert proxy == final.replace(standalone_epochs=5)
    assert proxy.standalone_ramp_epochs == 0.125


def test_darts_is_as_in_its_code():
    settings = preset("darts-retrain")
    assert (settings.batch_size, settings.learning_rate, settings.weight_decay) == (96, 0.025, 3e-4)
    assert (settings.standalone_epochs, settings.standalone_schedule) == (600, "cosine")
    assert (settings.standalone_auxiliary, settings.standalone_drop_path) == (0.4, 0.2)
    assert (settings.augmentation.cutout, settings.clip_norm) == (16, 5)
    settings = preset("darts-imagenet")
    assert (settings.standalone_epochs, settings.standalone_schedule) == (250, "linear")
    assert (settings.standalone_ramp_epochs, settings.label_smoothing) == (5, 0.1)


def test_torchvisions_recipe_forgets_at_its_pace():
    settings = preset("modern-imagenet")
    forgotten = (1 - 0.99998) * 1024 * 32 / 600  # in 32 batches of 1024, of 600 epochs
    assert settings.standalone_ema**32 == pytest.approx(1 - forgotten, abs=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_shortened_and_changed(name):
    short = preset(name, standalone_epochs=1, supernet_epochs=1, seed=3)
    assert short.standalone_ramp_epochs < 1
    assert short.describe().keys() >= preset(name).describe().keys() - set(LATER)


def test_fewer_epochs_scale_the_milestones():
    assert preset("cifar100", standalone_epochs=20).milestones == (6, 12, 16)
    assert preset("cifar100", standalone_epochs=1).milestones == (0.3, 0.6, 0.8)
    assert preset("cifar100", standalone_epochs=20, milestones=(5,)).milestones == (5,)
    assert preset("cifar100", seed=3).milestones == (60, 120, 160)


def test_presets_and_settings_resolve():
    assert resolve("small", seed=2) == PRESETS["small"].replace(seed=2)
    assert resolve(TrainSettings(seed=1), batch_size=4) == TrainSettings(seed=1, batch_size=4)
    with pytest.raises(ValueError, match=r"settings must be one of small, .* got 'cifar'"):
        resolve("cifar")
    with pytest.raises(TypeError, match=r"a training setting must be one of batch_size, .* got 'batchsize'"):
        resolve("small", batchsize=4)
    with pytest.raises(TypeError, match="settings must be a TrainSettings or a preset's name, got a dict"):
        resolve({})


@pytest.mark.parametrize(
    ("overrides", "error", "text"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an int, got 2.5"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be above 0, got 0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be a finite number, got nan"),
        ({"momentum": 1}, ValueError, "momentum must be at least 0 and below 1, got 1"),
        ({"momentum": 0}, ValueError, "momentum must be above 0 where nesterov is True, got 0"),
        ({"weight_decay": -1e-4}, ValueError, "weight_decay must be at least 0, got -0.0001"),
        ({"warm_up_epochs": -1}, ValueError, "warm_up_epochs must be at least 0, got -1"),
        ({"epochs_per_step": 0}, ValueError, "epochs_per_step must be at least 1, got 0"),
        ({"milestones": (3, 3)}, ValueError, r"milestones must be increasing epochs, got \(3, 3\)"),
        ({"milestones": (0,)}, ValueError, "milestones must be above 0, got 0"),
        (
            {"milestones": (10, 200)},
            ValueError,
            r"before the last of the 200 standalone_epochs, got \(10, 200\)",
        ),
        ({"label_smoothing": 1}, ValueError, "label_smoothing must be at least 0 and below 1, got 1"),
        ({"standalone_ema": 1.0}, ValueError, "standalone_ema must be at least 0 and below 1, got 1.0"),
        ({"bias_decay": 0}, TypeError, "bias_decay must be True or False, got 0"),
        (
            {"supernet_schedule": "milestones"},
            ValueError,
            "supernet_schedule must be one of 'linear', 'cosine', 'constant', 'exponential', got 'mile",
        ),
        (
            {"standalone_schedule": "step"},
            ValueError,
            "standalone_schedule must be one of 'milestones', 'linear', 'cosine', 'constant', 'exponential'",
        ),
        ({"standalone_ramp_epochs": -0.5}, ValueError, "standalone_ramp_epochs must be at least 0, got -0.5"),
        ({"optimizer": "adam"}, ValueError, "optimizer must be one of 'sgd', 'adamw', 'rmsprop', got 'adam'"),
        ({"beta2": 0.9}, ValueError, "beta2 must be None for the optimizer 'sgd', got 0.9"),
        (
            {"beta2": 1, "optimizer": "adamw"},
            ValueError,
            "beta2 must be at least 0 and below 1, got 1",
        ),
        (
            {"augmentation": {"cutout": 8}},
            TypeError,
            "augmentation must be an Augmentation, got {",
        ),
        ({"class_weights": "even"}, ValueError, "class_weights must be None, 'balanced' or a .* got 'even'"),
        ({"class_weights": (1, -1)}, ValueError, "class_weights must be at least 0, got -1"),
        ({"mixup": -1}, ValueError, "mixup must be at least 0, got -1"),
        ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and below 1, got 1.0"),
        ({"standalone_drop_path": 1}, ValueError, "standalone_drop_path must be .* below 1, got 1"),
        (
            {"standalone_drop_path_rule": "time"},
            ValueError,
            "standalone_drop_path_rule must be one of 'depth', 'epochs', got 'time'",
        ),
        ({"standalone_keep_best": 1}, TypeError, "standalone_keep_best must be True or False, got 1"),
        ({"eps": 0, "optimizer": "rmsprop"}, ValueError, "eps must be above 0, got 0"),
        (
            {"standalone_ramp_epochs": 200},
            ValueError,
            "standalone_ramp_epochs must be less than the 200 standalone_epochs, got 200",
        ),
        (
            {"supernet_epochs": 0, "supernet_ramp_epochs": 1},
            ValueError,
            "supernet_ramp_epochs must be less than the 0 supernet_epochs, got 1",
        ),
        ({"milestones": 10}, TypeError, "milestones must be a tuple of epochs .* got 10"),
        ({"precision": "fp16"}, ValueError, "precision must be one of 'fp32', 'bf16', got 'fp16'"),
        ({"operators": "fast"}, ValueError, "operators must be one of 'auto', 'native', 'torch', got 'fast'"),
        ({"clip_norm": 0}, ValueError, "clip_norm must be above 0, got 0"),
        ({"exponential_end": 1.0}, ValueError, "exponential_end must be above 0 and below 1, got 1.0"),
        ({"loss_scale": -1.0}, ValueError, "loss_scale must be above 0, got -1.0"),
        ({"channels_last": 1}, TypeError, "channels_last must be True or False, got 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_named(overrides, error, text):
    with pytest.raises(error, match=text):
        TrainSettings(**overrides)


def test_fewer_epochs_scale_the_ramps():
    settings = TrainSettings(standalone_ramp_epochs=5, supernet_ramp_epochs=6)
    assert settings.replace(standalone_epochs=20).standalone_ramp_epochs == 0.5
    assert settings.replace(supernet_epochs=0).supernet_ramp_epochs == 0
    assert settings.replace(supernet_epochs=20, supernet_ramp_epochs=3).supernet_ramp_epochs == 3
    assert settings.replace(seed=3) == TrainSettings(standalone_ramp_epochs=5, supernet_ramp_epochs=6, seed=3)


def test_milestones_count_for_their_schedule_alone():
    assert TrainSettings(standalone_epochs=5, standalone_schedule="cosine").milestones == (60, 120, 160)
    assert preset("darts", standalone_epochs=20).milestones == ()


def test_description_is_json():
    import json

    assert json.loads(json.dumps(preset("imagenet").describe())) == preset("imagenet").describe()


def test_later_fields_are_described_where_they_say_something():
    plain = preset("small").describe()
    assert not plain.keys() & set(LATER)
    values = {
        "optimizer": "rmsprop",
        "beta2": 0.9,
        "eps": 1.0,
        "augmentation": Augmentation(cutout=8, color_jitter=(0.4,)),
        "mixup": 0.2,
        "cutmix": 1.0,
        "class_weights": [1, 2.5],
        "dropout": 0.0,
        "exponential_end": 0.1,
        "standalone_drop_path": 0.2,
        "standalone_drop_path_rule": "epochs",
        "standalone_auxiliary": 0.4,
        "standalone_early_stopping": 5,
        "standalone_keep_best": True,
        "bias_decay": False,
        "label_smoothing": 0.1,
        "supernet_schedule": "cosine",
        "supernet_ramp_epochs": 2,
        "standalone_schedule": "constant",
        "standalone_ramp_epochs": 3,
        "standalone_ema": 0.9,
        "batch_norm": "local",
    }
    assert values.keys() == set(LATER)
    described = values | {"augmentation": {"cutout": 8, "color_jitter": [0.4]}}
    assert preset("small", **values).describe() == plain | described
