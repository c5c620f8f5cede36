"""Training supernets and stand-alone networks, repeatably and from any position."""

from lasfast.train.adapt import adapt, adaptation
from lasfast.train.checkpoint import CheckpointError
from lasfast.train.itnas import ITNASTrainer
from lasfast.train.objective import Distillation
from lasfast.train.presets import PRESETS, preset
from lasfast.train.progress import NonFiniteLossError, Progress
from lasfast.train.samplers import PathSampler, SandwichSampler, UniformCostSampler, UniformSampler
from lasfast.train.settings import TrainSettings
from lasfast.train.standalone import StandaloneTrainer, train_standalone
from lasfast.train.supernet import OneShotTrainer, PathTrainer, SupernetTrainer

__all__ = [
    "PRESETS",
    "CheckpointError",
    "Distillation",
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
    "adapt",
    "adaptation",
    "preset",
    "train_standalone",
]
