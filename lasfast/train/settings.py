"""The settings of training, which all trainers read; `lasfast.train.presets` has those of papers."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

from lasfast.core.checks import as_bool, as_int, as_number, check_choice
from lasfast.data.augmentation import AS_LOADED, Augmentation
from lasfast.ir.precision import PRECISIONS

OPERATORS = ("auto", "native", "torch")
BATCH_NORMS = ("global", "local")
BALANCED = "balanced"
DROP_PATH_RULES = ("depth", "epochs")
OPTIMIZERS = ("sgd", "adamw", "rmsprop")
SUPERNET_SCHEDULES = ("linear", "cosine", "constant", "exponential")
STANDALONE_SCHEDULES = ("milestones", *SUPERNET_SCHEDULES)
COUNTS = {  # the least of each
    "batch_size": 1,
    "warm_up_epochs": 0,
    "epochs_per_step": 1,
    "supernet_epochs": 0,
    "standalone_epochs": 1,
    "standalone_early_stopping": 0,
    "seed": 0,
}
LATER = (
    "optimizer",
    "beta2",
    "eps",
    "augmentation",
    "mixup",
    "cutmix",
    "class_weights",
    "dropout",
    "standalone_drop_path",
    "standalone_drop_path_rule",
    "standalone_auxiliary",
    "standalone_early_stopping",
    "standalone_keep_best",
    "bias_decay",
    "label_smoothing",
    "supernet_schedule",
    "supernet_ramp_epochs",
    "standalone_schedule",
    "standalone_ramp_epochs",
    "exponential_end",
    "standalone_ema",
    "batch_norm",
)
"""Fields that studies of earlier versions do not have in their files, and go on without."""
NUMBERS: dict[str, dict[str, float]] = {
    "learning_rate": {"above": 0},
    "momentum": {"minimum": 0, "below": 1},
    "weight_decay": {"minimum": 0},
    "supernet_ramp_epochs": {"minimum": 0},
    "standalone_ramp_epochs": {"minimum": 0},
    "milestone_factor": {"above": 0},
    "exponential_end": {"above": 0, "below": 1},
    "label_smoothing": {"minimum": 0, "below": 1},
    "mixup": {"minimum": 0},
    "cutmix": {"minimum": 0},
    "standalone_ema": {"minimum": 0, "below": 1},
    "standalone_drop_path": {"minimum": 0, "below": 1},
    "standalone_auxiliary": {"minimum": 0},
    "loss_scale": {"above": 0},
}
OPTIONAL_NUMBERS: dict[str, dict[str, float]] = {
    "beta2": {"minimum": 0, "below": 1},
    "eps": {"above": 0},
    "dropout": {"minimum": 0, "below": 1},
    "clip_norm": {"above": 0},
}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The settings of training; by default SGD, with the schedules of the NIR paper.

    `optimizer` is "sgd", "adamw" (Loshchilov and Hutter 2019) or "rmsprop" (Tieleman and Hinton 2012), the
    last two as `torch.optim` has them. `momentum` is SGD's and RMSprop's momentum, and AdamW's first beta;
    `nesterov` is of SGD alone. `beta2` is the decay of the mean squares of gradients, AdamW's second beta
    (0.999 where it is None) or RMSprop's alpha (0.99); `eps` is what is added to their root (1e-8).

    `learning_rate` is the base rate. Warm-up uses it as it is; a search step uses half of it, falling
    linearly to zero over the step; stand-alone training multiplies it by `milestone_factor` at each of
    `milestones` (in epochs from the start; fractions of an epoch are allowed). A one-shot supernet is trained
    for `supernet_epochs` beforehand, the base rate falling linearly to zero. `supernet_schedule` and
    `standalone_schedule` let the rate of these two fall linearly or along half a "cosine" to zero (Loshchilov
    and Hutter 2017, Eq. 5), fall by the same factor in equal times, to the share `exponential_end` of the
    base rate ("exponential": Tan and Le 2019, section 5), or stay "constant". Before that, it rises linearly
    to the base rate, with each batch of the first `supernet_ramp_epochs` or `standalone_ramp_epochs` (Goyal
    et al. 2017, section 2.2), which may be fractions.

    `augmentation` says how images are varied (`lasfast.data.Augmentation`); by default, as their set has it.

    `mixup` (Zhang et al. 2018) and `cutmix` (Yun et al. 2019) are the alphas by which each batch is mixed
    with itself, its images and its labels; 0 is not at all, and of both one is drawn for each batch.
    `class_weights` are factors of the loss for the images of each class, or "balanced", by which each class
    counts the same whatever the number of its images (King and Zeng 2001, section 4). `dropout` is the
    probability of dropout before the last fully connected layer (Srivastava et al. 2014), in place of what
    the network has there; None leaves that.

    Stand-alone training has some settings of its own. `standalone_drop_path` is the probability by which an
    image skips a residual branch. By the `standalone_drop_path_rule` "depth", that is of the deepest branch,
    and the others' rises linearly with depth (stochastic depth: Huang et al. 2016, section 3); by "epochs",
    all have the same, which rises linearly with each epoch from 0 (Zoph et al. 2018, appendix A.7, and
    DARTS' code, which drops the edges of cells). `standalone_auxiliary` is the weight of the loss of an
    auxiliary head at two thirds of the depth (Szegedy et al. 2015, section 5; DARTS' is 0.4). Training ends
    after `standalone_early_stopping` epochs without a better validation accuracy (0: never), and with
    `standalone_keep_best` its result is the network as it was after the epoch with the best one (Prechelt
    1998).

    With a `standalone_ema` above 0, stand-alone training ends with an average of weights and statistics over
    its batches. Each batch leaves of the average this share, and adds the rest of what the network has then
    (Szegedy et al. 2016, section 8).

    `label_smoothing` is the share of each label that is spread over all classes (Szegedy et al. 2016, section
    7). With `bias_decay=False`, weight decay leaves alone biases, and scales of norms (He et al., Bag of
    Tricks, 2019, section 3.1).

    Of several processes, each has a part of a batch. With `batch_norm="global"`, batch norm takes the
    statistics of the whole batch; with "local", of each part, as torch's DistributedDataParallel does. What
    is trained then depends on the number of processes, and running statistics are the first one's.

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
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    beta2: float | None = None
    eps: float | None = None
    weight_decay: float = 5e-4
    bias_decay: bool = True
    augmentation: Augmentation = AS_LOADED
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: str | tuple[float, ...] | None = None
    dropout: float | None = None
    label_smoothing: float = 0.0
    warm_up_epochs: int = 60
    epochs_per_step: int = 10
    supernet_epochs: int = 120
    supernet_schedule: str = "linear"
    supernet_ramp_epochs: float = 0
    standalone_epochs: int = 200
    standalone_schedule: str = "milestones"
    standalone_ramp_epochs: float = 0
    standalone_ema: float = 0.0
    standalone_drop_path: float = 0.0
    standalone_drop_path_rule: str = "depth"
    standalone_auxiliary: float = 0.0
    standalone_early_stopping: int = 0
    standalone_keep_best: bool = False
    milestones: tuple[float, ...] = (60, 120, 160)
    milestone_factor: float = 0.2
    exponential_end: float = 0.01
    batch_norm: str = "global"
    precision: str = "fp32"
    channels_last: bool = True
    operators: str = "auto"
    clip_norm: float | None = None
    loss_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field, so that nothing is trained with a setting that makes no sense."""
        for name, least in COUNTS.items():
            self._set(name, as_int(name, getattr(self, name), minimum=least))
        for name, bounds in NUMBERS.items():
            self._set(name, as_number(name, getattr(self, name), **bounds))
        for name in ("nesterov", "bias_decay", "channels_last", "standalone_keep_best"):
            self._set(name, as_bool(name, getattr(self, name)))
        for name, bounds in OPTIONAL_NUMBERS.items():
            if getattr(self, name) is not None:
                self._set(name, as_number(name, getattr(self, name), **bounds))
        self._check_optimizer()
        if not isinstance(self.augmentation, Augmentation):
            raise TypeError(f"augmentation must be an Augmentation, got {self.augmentation!r}")
        check_choice("precision", self.precision, tuple(PRECISIONS))
        check_choice("operators", self.operators, OPERATORS)
        check_choice("batch_norm", self.batch_norm, BATCH_NORMS)
        check_choice("supernet_schedule", self.supernet_schedule, SUPERNET_SCHEDULES)
        check_choice("standalone_drop_path_rule", self.standalone_drop_path_rule, DROP_PATH_RULES)
        check_choice("standalone_schedule", self.standalone_schedule, STANDALONE_SCHEDULES)
        for kind in ("supernet", "standalone"):
            ramp, epochs = _plain(getattr(self, f"{kind}_ramp_epochs")), getattr(self, f"{kind}_epochs")
            self._set(f"{kind}_ramp_epochs", ramp)
            if ramp and ramp >= epochs:
                raise ValueError(
                    f"{kind}_ramp_epochs must be less than the {epochs} {kind}_epochs, got {ramp}"
                )
        self._check_class_weights()
        self._check_milestones()

    @property
    def mixes(self) -> bool:
        """True where batches are mixed with themselves."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def validates(self) -> bool:
        """True where stand-alone training looks at the validation accuracy after each epoch."""
        return self.standalone_early_stopping > 0 or self.standalone_keep_best

    def _check_optimizer(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if self.optimizer != "sgd":
            return
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum must be above 0 where nesterov is True, got 0")
        for name in ("beta2", "eps"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} must be None for the optimizer 'sgd', got {getattr(self, name)}")

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if weights is None or weights == BALANCED:
            return
        if not isinstance(weights, tuple | list) or not weights:
            raise ValueError(
                f"class_weights must be None, {BALANCED!r} or a number for each class, got {weights!r}"
            )
        self._set("class_weights", tuple(as_number("class_weights", one, minimum=0) for one in weights))

    def _check_milestones(self) -> None:
        if not isinstance(self.milestones, tuple | list):
            raise TypeError(
                f"milestones must be a tuple of epochs such as (60, 120, 160), got {self.milestones!r}"
            )
        self._set("milestones", tuple(as_number("milestones", one, above=0) for one in self.milestones))
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones must be increasing epochs, got {self.milestones!r}")
        if self.standalone_schedule != "milestones":
            return  # they say nothing
        if self.milestones and self.milestones[-1] >= self.standalone_epochs:
            raise ValueError(
                f"milestones must all be before the last of the {self.standalone_epochs} standalone_epochs, "
                f"got {self.milestones!r}"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def replace(self, **overrides: Any) -> TrainSettings:
        """Return a copy with some fields changed; unknown names raise TypeError.

        Milestones and ramps keep their places relative to the end: where `standalone_epochs` is changed and
        `milestones` is not given, they are scaled along (60/120/160 of 200 become 6/12/16 of 20).
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in overrides:
            if name not in known:
                raise TypeError(f"a training setting must be one of {', '.join(known)}, got {name!r}")
        if "standalone_epochs" in overrides and "milestones" not in overrides:
            epochs = overrides["standalone_epochs"]
            as_int("standalone_epochs", epochs, minimum=1)
            scaled = (milestone * epochs / self.standalone_epochs for milestone in self.milestones)
            overrides["milestones"] = tuple(map(_plain, scaled))
        for kind in ("supernet", "standalone"):
            epochs, ramp = overrides.get(f"{kind}_epochs"), f"{kind}_ramp_epochs"
            if epochs is not None and getattr(self, ramp) and ramp not in overrides:
                as_int(f"{kind}_epochs", epochs, minimum=0)
                overrides[ramp] = getattr(self, ramp) * epochs / getattr(self, f"{kind}_epochs")
        return dataclasses.replace(self, **overrides)

    def describe(self) -> dict[str, Any]:
        """Return the fields as JSON values; two runs with equal descriptions train alike.

        Fields of `LATER` are there where they are not at their defaults.
        """
        values = dataclasses.asdict(self) | {
            "milestones": list(self.milestones),
            "augmentation": self.augmentation.describe(),
        }
        if isinstance(self.class_weights, tuple):
            values["class_weights"] = list(self.class_weights)
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {"augmentation": {}}
        return {name: value for name, value in values.items() if name not in LATER or value != defaults[name]}


def _plain(number: float) -> float:
    """Return a whole number as an int, so that equal settings have equal descriptions."""
    return int(number) if number == int(number) else number
