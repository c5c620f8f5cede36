"""Datasets: labelled images are read, split, augmented and normalized.

``load`` gives a named set or a folder of images; the classes take images of one's own.
"""

from __future__ import annotations

from lasfast.data.augmentation import Augmentation
from lasfast.data.dataset import Dataset
from lasfast.data.errors import DataError
from lasfast.data.images import TensorImages
from lasfast.data.loaders import FolderImages, FolderLoader
from lasfast.data.loading import load
from lasfast.data.protocols import TrainingImages

__all__ = [
    "Augmentation",
    "DataError",
    "Dataset",
    "FolderImages",
    "FolderLoader",
    "TensorImages",
    "TrainingImages",
    "load",
]
