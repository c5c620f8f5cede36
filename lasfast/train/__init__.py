"""Training supernets and stand-alone networks, repeatably and from any position."""

from lasfast.train.checkpoint import CheckpointError
from lasfast.train.itnas_trainer import ITNASTrainer
from lasfast.train.one_shot_trainer import OneShotTrainer
from lasfast.train.path_trainer import PathTrainer
from lasfast.train.progress import Progress
from lasfast.train.record import NonFiniteLossError
from lasfast.train.samplers import PathSampler, SandwichSampler, UniformCostSampler, UniformSampler
from lasfast.train.settings import PRESETS, TrainSettings, preset
from lasfast.train.standalone import StandaloneTrainer, train_standalone
from lasfast.train.supernet_trainer import SupernetTrainer

__all__ = [
    "PRESETS",
    "CheckpointError",
    "ITNASTrainer",
    "NonFiniteLossError",
    "OneShotTrainer",
    "PathSampler",
    "PathTrainer",
    "Progress",
    "SandwichSampler",
    "StandaloneTrainer",
    "SupernetTrainer",
    "TrainSettings",
    "UniformCostSampler",
    "UniformSampler",
    "preset",
    "train_standalone",
]
