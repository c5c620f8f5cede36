"""The training settings of papers by name, as in `lasfast.train.preset("darts-retrain")`.

Each comment says where a preset's numbers come from, and which of them its paper does not print. The defaults
of `TrainSettings`, which presets build on, are those of Meng et al., "Neural Inheritance Relation Guided
One-Shot Layer Assignment Search" (NIR, AAAI 2020), "Implementation Details" and the "Training Details" of the
three experiments; `supernet_epochs` is of Guo et al., "Single Path One-Shot Neural Architecture Search with
Uniform Sampling", section 4.
"""

from __future__ import annotations

from typing import Any

from lasfast.data.augmentation import Augmentation
from lasfast.train.settings import TrainSettings

RESIZED = Augmentation(crop="resized", flip=True)  # torchvision's RandomResizedCrop, and flips

# NIR. The search's rate of 0.05 is half the stand-alone 0.1: "batch size 128 for 200 epochs", 0.1 x 0.2 at
# 60, 120 and 160. Crops and flips are those of the data set.
NIR_CIFAR100 = TrainSettings()
# MobileNetV1; ResNet-50 decays by 0.0005. "Dropout ratio 0.5" of the supernet holds for all trainings
# (ours).
NIR_TINY_IMAGENET = TrainSettings(
    batch_size=256, weight_decay=1e-4, milestones=(100, 150, 175), milestone_factor=0.1
)
# 7 GPUs x 128 images; base rate 0.6. Stand-alone networks take 90 epochs (Table 3); their milestones are
# not printed, so Tiny-ImageNet's are scaled to 90. The search uses a sixth of the training images
# (--limit).
NIR_IMAGENET = TrainSettings(
    batch_size=896,
    learning_rate=0.6,
    weight_decay=4e-5,
    standalone_epochs=90,
    milestones=(45, 67.5, 78.75),
    milestone_factor=0.1,
)

# Single Path One-Shot, section 4: batch 1024, 120 epochs of the supernet and 240 of the network that is
# found, "the same settings as" ShuffleNetV2 for both. These are ShuffleNet's (Zhang et al. 2018, section
# 4): a rate that falls linearly from 0.5 to 0, decay 4e-5. Not printed, and as in the paper's code
# (megvii-model/SinglePathOneShot, train.py, and get_parameters of utils.py): momentum 0.9, label smoothing
# 0.1, no decay of biases and norms, colour jitter of 0.4 each in brightness, contrast and saturation.
SPOS = TrainSettings(
    batch_size=1024,
    learning_rate=0.5,
    nesterov=False,
    weight_decay=4e-5,
    bias_decay=False,
    label_smoothing=0.1,
    augmentation=Augmentation(crop="resized", flip=True, color_jitter=(0.4, 0.4, 0.4)),
    supernet_epochs=120,
    supernet_schedule="linear",
    standalone_epochs=240,
    standalone_schedule="linear",
    milestones=(),
)

# LayerNAS, "Search, train and evaluation": RMSprop with momentum 0.9, batch 4096, rate 2.64, 12.5 epochs of
# warm-up, then a cosine, 500 epochs. Not printed, and as in the code of TuNAS (Bender et al. 2020), which
# has the numbers above, too: the decay of mean squares 0.9 and an epsilon of 1 (which TensorFlow adds
# before the root is taken, torch after), weight decay 4e-5 of weights alone, label smoothing 0.1,
# MobileNetV3's dropout.
LAYERNAS = TrainSettings(
    batch_size=4096,
    learning_rate=2.64,
    optimizer="rmsprop",
    beta2=0.9,
    eps=1.0,
    weight_decay=4e-5,
    bias_decay=False,
    label_smoothing=0.1,
    dropout=0.25,
    augmentation=RESIZED,
    standalone_epochs=500,
    standalone_schedule="cosine",
    standalone_ramp_epochs=12.5,
    milestones=(),
)

# DARTS (Liu et al. 2019), as in its code (quark0/darts, train_search.py, gradients clipped at 5 included),
# for the search; and 600 epochs from scratch without what else belongs to these, which `darts-retrain` has.
# ITNASTrainer lets the rate fall to 0.001.
DARTS = TrainSettings(
    batch_size=64,
    learning_rate=0.025,
    nesterov=False,
    weight_decay=3e-4,
    supernet_epochs=50,
    standalone_epochs=600,
    standalone_schedule="cosine",
    milestones=(),
    clip_norm=5.0,
)
# Its cells on ImageNet by PC-DARTS (Xu et al. 2020, and its code), whose settings ITNAS (Ma et al. 2020)
# takes: batch 1024, 0.5 linearly to 0 after 5 epochs of warm-up, 250 in all, decay 3e-5, label smoothing
# 0.1, an auxiliary loss of 0.4. (Of the last 5 epochs the code makes a smaller slope, which is left out.)
DARTS_IMAGENET = DARTS.replace(
    batch_size=1024,
    learning_rate=0.5,
    weight_decay=3e-5,
    label_smoothing=0.1,
    augmentation=Augmentation(crop="resized", flip=True, color_jitter=(0.4, 0.4, 0.4, 0.2)),
    standalone_epochs=250,
    standalone_schedule="linear",
    standalone_ramp_epochs=5,
    standalone_auxiliary=0.4,
)

# Ours, of parts with sources: SGD along a cosine for 200 epochs and TrivialAugment, as its paper trains on
# CIFAR (Müller and Hutter 2021, section 4); 5 epochs of warm-up, no decay of biases and norms, label
# smoothing and MixUp as in the Bag of Tricks (He et al. 2019, sections 3.1 and 5); MixUp or CutMix and
# random erasing as torchvision has them below.
MODERN_SMALL_IMAGES = TrainSettings(
    bias_decay=False,
    label_smoothing=0.1,
    mixup=0.2,
    cutmix=1.0,
    augmentation=Augmentation(auto_augment="trivialaugment", random_erasing=0.1),
    supernet_schedule="cosine",
    supernet_ramp_epochs=5,
    standalone_schedule="cosine",
    standalone_ramp_epochs=5,
    milestones=(),
)
# torchvision's recipe of 2021 for ResNet-50 (Vryniotis, "How to Train State-Of-The-Art Models Using
# TorchVision's Latest Primitives"). Ours: no decay of biases either, not of norms alone; an average over
# each batch that forgets as fast as theirs over every 32nd; the same for supernets. Left out: repeated
# augmentation, training crops of 176 pixels.
MODERN_IMAGENET = TrainSettings(
    batch_size=1024,
    learning_rate=0.5,
    nesterov=False,
    weight_decay=2e-5,
    bias_decay=False,
    label_smoothing=0.1,
    mixup=0.2,
    cutmix=1.0,
    augmentation=Augmentation(crop="resized", flip=True, auto_augment="trivialaugment", random_erasing=0.1),
    supernet_schedule="cosine",
    supernet_ramp_epochs=5,
    standalone_epochs=600,
    standalone_schedule="cosine",
    standalone_ramp_epochs=5,
    standalone_ema=0.999966,
    milestones=(),
)

PRESETS: dict[str, TrainSettings] = {
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
    "nir-cifar100": NIR_CIFAR100,
    "nir-tiny-imagenet": NIR_TINY_IMAGENET.replace(dropout=0.5, augmentation=RESIZED),
    "nir-tiny-imagenet-resnet50": NIR_TINY_IMAGENET.replace(
        weight_decay=5e-4, dropout=0.5, augmentation=RESIZED
    ),
    "nir-imagenet": NIR_IMAGENET.replace(dropout=0.5, augmentation=RESIZED),
    "spos-supernet": SPOS,
    "spos-retrain": SPOS,
    "layernas-proxy": LAYERNAS.replace(standalone_epochs=5),  # the rest, and a ramp in proportion, are ours
    "layernas-final": LAYERNAS,
    "darts-search": DARTS,
    # As in DARTS' train.py: batch 96, an auxiliary loss of 0.4, paths dropped by up to 0.2, cutout of 16
    # pixels; gradients clipped at 5, as above. (PC-DARTS' copy of it has the same, but for its own 0.3.)
    "darts-retrain": DARTS.replace(
        batch_size=96,
        augmentation=Augmentation(crop="pad", flip=True, cutout=16),
        standalone_auxiliary=0.4,
        standalone_drop_path=0.2,
        standalone_drop_path_rule="epochs",
    ),
    "darts-imagenet": DARTS_IMAGENET,
    "modern-small-images": MODERN_SMALL_IMAGES,
    "modern-imagenet": MODERN_IMAGENET,
    # The names that these had before others came: augmentation is the data set's, and dropout the network's.
    "cifar100": NIR_CIFAR100,
    "tiny-imagenet": NIR_TINY_IMAGENET,
    "tiny-imagenet-resnet50": NIR_TINY_IMAGENET.replace(weight_decay=5e-4),
    "imagenet": NIR_IMAGENET,
    "darts": DARTS,
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
