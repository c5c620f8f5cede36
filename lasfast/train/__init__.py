"""Training supernets and stand-alone networks, repeatably and from any position."""

from lasfast.train.checkpoint import CheckpointError
from lasfast.train.progress import Progress
from lasfast.train.settings import PRESETS, TrainSettings, preset
from lasfast.train.standalone import StandaloneTrainer, train_standalone
from lasfast.train.supernet_trainer import SupernetTrainer
from lasfast.train.trainer import NonFiniteLossError

__all__ = [
    "PRESETS",
    "CheckpointError",
    "NonFiniteLossError",
    "Progress",
    "StandaloneTrainer",
    "SupernetTrainer",
    "TrainSettings",
    "preset",
    "train_standalone",
]
