"""Datasets in, tensors out: labelled images, split, augmented and normalized.

Imports nothing else of lasfast but small helpers. ``load`` is the way in; the classes are there for images
of one's own.
"""

from __future__ import annotations

from lasfast.data.dataset import Dataset
from lasfast.data.errors import DataError
from lasfast.data.images import TensorImages, TrainingImages
from lasfast.data.loaders import FolderImages, FolderLoader
from lasfast.data.loading import load

__all__ = [
    "DataError",
    "Dataset",
    "FolderImages",
    "FolderLoader",
    "TensorImages",
    "TrainingImages",
    "load",
]
