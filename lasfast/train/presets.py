"""The training settings of papers, by name.

The defaults of `TrainSettings`, which presets build on, are those of Meng et al., "Neural Inheritance
Relation Guided One-Shot Layer Assignment Search" (NIR, AAAI 2020), "Implementation Details" and the "Training
Details" of the three experiments; `supernet_epochs` is of Guo et al., "Single Path One-Shot Neural
Architecture Search with Uniform Sampling", section 4.
"""

from __future__ import annotations

from typing import Any

from lasfast.train.settings import TrainSettings

PRESETS: dict[str, TrainSettings] = {
    # The defaults are the CIFAR-100 settings: "batch size 128 for 200 epochs", 0.1 x 0.2 at 60, 120 and 160.
    "cifar100": TrainSettings(),
    # MobileNetV1. The supernet itself has dropout 0.5. The search's 0.05 is half the stand-alone 0.1.
    "tiny-imagenet": TrainSettings(
        batch_size=256, weight_decay=1e-4, milestones=(100, 150, 175), milestone_factor=0.1
    ),
    "tiny-imagenet-resnet50": TrainSettings(
        batch_size=256, weight_decay=5e-4, milestones=(100, 150, 175), milestone_factor=0.1
    ),
    # 7 GPUs x 128 images; base rate 0.6. Stand-alone networks take 90 epochs (Table 3); their milestones are
    # not printed, so Tiny-ImageNet's are scaled to 90. The search uses a sixth of the training images.
    "imagenet": TrainSettings(
        batch_size=896,
        learning_rate=0.6,
        weight_decay=4e-5,
        standalone_epochs=90,
        milestones=(45, 67.5, 78.75),
        milestone_factor=0.1,
    ),
    # The search of DARTS (Liu et al. 2019, as in its code), and its 600 epochs from scratch without what else
    # belongs to these: auxiliary losses, cutout and dropped paths.
    "darts": TrainSettings(
        batch_size=64,
        learning_rate=0.025,
        nesterov=False,
        weight_decay=3e-4,
        supernet_epochs=50,
        standalone_epochs=600,
        standalone_schedule="cosine",
        milestones=(),
        clip_norm=5.0,
    ),
    # Ours: for some thousand small images on a few CPU cores.
    "small": TrainSettings(
        batch_size=64,
        learning_rate=0.03,
        warm_up_epochs=8,
        epochs_per_step=3,
        supernet_epochs=20,
        standalone_epochs=20,
        milestones=(6, 12, 16),
    ),
}


def preset(name: str, **overrides: Any) -> TrainSettings:
    """Return the settings called `name`, with some fields changed, e.g. `preset("cifar100", seed=1)`.

    Changing `standalone_epochs` alone scales the milestones (see `TrainSettings.replace`).
    """
    if name not in PRESETS:
        raise ValueError(f"settings must be one of {', '.join(PRESETS)}, or a TrainSettings, got {name!r}")
    return PRESETS[name].replace(**overrides)


def resolve(settings: TrainSettings | str, **overrides: Any) -> TrainSettings:
    """Return settings from a preset's name or from settings, with some fields changed."""
    if isinstance(settings, TrainSettings):
        return settings.replace(**overrides)
    if not isinstance(settings, str):
        raise TypeError(
            f"settings must be a TrainSettings or a preset's name, got a {type(settings).__name__}"
        )
    return preset(settings, **overrides)
