"""Training settings, and the paper's own as presets.

Source of the presets: Meng et al., "Neural Inheritance Relation Guided One-Shot Layer Assignment Search"
(AAAI 2020), "Implementation Details" and the "Training Details" of the three experiments; `supernet_epochs`
is of Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", section 4.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lasfast.ir.precision import PRECISIONS

OPERATORS = ("auto", "native", "torch")


def _check_int(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    if value < least:
        raise ValueError(f"{name} is {value}; expected {least} or more")


def check_bool(name: str, value: object) -> None:
    """Raise TypeError, naming the argument, unless it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; expected True or False")


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raise TypeError or ValueError, naming the argument, unless it is a finite number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; expected a number")
    low_enough = below is None or value < below
    high_enough = (least is None or value >= least) and (above is None or value > above)
    if not (math.isfinite(value) and low_enough and high_enough):
        wanted = [
            text
            for bound, text in (
                (least, f"{least} or more"),
                (above, f"above {above}"),
                (below, f"below {below}"),
            )
            if bound is not None
        ]
        raise ValueError(f"{name} is {value}; expected a finite number, {' and '.join(wanted)}")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How supernets and stand-alone networks are trained: SGD, with the schedules of the NIR paper.

    `learning_rate` is the base rate. Warm-up uses it as it is; a search step uses half of it, falling
    linearly to zero over the step; stand-alone training multiplies it by `milestone_factor` at each of
    `milestones` (in epochs from the start; fractions of an epoch are allowed). A one-shot supernet is trained
    for `supernet_epochs` beforehand, the base rate falling linearly to zero.

    `precision="bf16"` runs forward passes under autocast, weights and momentum stay fp32; `channels_last`
    keeps the weights and images in that memory format. `operators="native"` runs lasfast's fused training
    operators (`lasfast.ops.conv_bn_act`, in channels_last), `"torch"` PyTorch's own, and `"auto"` whichever
    are faster on the first batch (remembered: see `lasfast.runtime.autotune`), with `channels_last` on a CPU
    or GPU for which the native ones were compiled; passes of the native ones are PyTorch's on a GPU where
    lasfast's failed their check (see `lasfast.runtime.gpu_check`). `clip_norm` bounds the norm of an update's
    gradient, all weights together (None: unbounded). Losses are multiplied by `loss_scale` before backward,
    and gradients divided by it after, so that small ones are not lost to rounding. All randomness of training
    is a function of `seed`.

    Raises ValueError or TypeError naming the field, its value and what was expected.
    """

    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    warm_up_epochs: int = 60
    epochs_per_step: int = 10
    supernet_epochs: int = 120
    standalone_epochs: int = 200
    milestones: tuple[float, ...] = (60, 120, 160)
    milestone_factor: float = 0.2
    precision: str = "fp32"
    channels_last: bool = True
    operators: str = "auto"
    clip_norm: float | None = None
    loss_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field, so that nothing is trained with a setting that makes no sense."""
        _check_int("batch_size", self.batch_size, least=1)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("momentum", self.momentum, least=0, below=1)
        check_bool("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is True, which needs a momentum above 0, but momentum is 0")
        check_number("weight_decay", self.weight_decay, least=0)
        _check_int("warm_up_epochs", self.warm_up_epochs, least=0)
        _check_int("epochs_per_step", self.epochs_per_step, least=1)
        _check_int("supernet_epochs", self.supernet_epochs, least=0)
        _check_int("standalone_epochs", self.standalone_epochs, least=1)
        check_number("milestone_factor", self.milestone_factor, above=0)
        check_bool("channels_last", self.channels_last)
        _check_int("seed", self.seed, least=0)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        check_number("loss_scale", self.loss_scale, above=0)
        if self.operators not in OPERATORS:
            raise ValueError(f"operators is {self.operators!r}; expected one of {', '.join(OPERATORS)}")
        if not isinstance(self.milestones, (tuple, list)):
            raise TypeError(
                f"milestones is {self.milestones!r}; expected a tuple of epochs, e.g. (60, 120, 160)"
            )
        object.__setattr__(self, "milestones", tuple(self.milestones))
        previous = 0.0
        for milestone in self.milestones:
            check_number("milestones", milestone, above=0)
            if milestone <= previous:
                raise ValueError(f"milestones is {self.milestones!r}; expected increasing epochs above 0")
            previous = milestone
        if self.milestones and self.milestones[-1] >= self.standalone_epochs:
            raise ValueError(
                f"milestones is {self.milestones!r}; expected all of them before the last of the "
                f"{self.standalone_epochs} standalone_epochs"
            )

    def replace(self, **overrides: Any) -> TrainSettings:
        """A copy with some fields changed; unknown names raise TypeError.

        Milestones keep their places relative to the end: where `standalone_epochs` is changed and
        `milestones` is not given, they are scaled along (60/120/160 of 200 become 6/12/16 of 20).
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in overrides:
            if name not in known:
                raise TypeError(f"{name!r} is not a training setting; expected one of {', '.join(known)}")
        if "standalone_epochs" in overrides and "milestones" not in overrides:
            epochs = overrides["standalone_epochs"]
            _check_int("standalone_epochs", epochs, least=1)
            scaled = (milestone * epochs / self.standalone_epochs for milestone in self.milestones)
            overrides["milestones"] = tuple(int(m) if m == int(m) else m for m in scaled)
        return dataclasses.replace(self, **overrides)

    def describe(self) -> dict[str, Any]:
        """The fields as JSON values; two runs with equal descriptions train alike."""
        return dataclasses.asdict(self) | {"milestones": list(self.milestones)}


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
    # belongs to these: a cosine, of which the milestones are a coarse copy, auxiliary losses, cutout and
    # dropped paths.
    "darts": TrainSettings(
        batch_size=64,
        learning_rate=0.025,
        nesterov=False,
        weight_decay=3e-4,
        supernet_epochs=50,
        standalone_epochs=600,
        milestones=(250, 400, 520),
        milestone_factor=0.3,
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
    """The settings called `name`, with some fields changed, e.g. `preset("cifar100", seed=1)`.

    Changing `standalone_epochs` alone scales the milestones (see `TrainSettings.replace`).
    """
    if name not in PRESETS:
        raise ValueError(f"settings is {name!r}; expected one of {', '.join(PRESETS)}, or a TrainSettings")
    return PRESETS[name].replace(**overrides)


def resolve(settings: TrainSettings | str, **overrides: Any) -> TrainSettings:
    """Settings from a preset's name or from settings, with some fields changed."""
    if isinstance(settings, TrainSettings):
        return settings.replace(**overrides)
    if not isinstance(settings, str):
        raise TypeError(
            f"settings is a {type(settings).__name__}; expected a TrainSettings or a preset's name"
        )
    return preset(settings, **overrides)
