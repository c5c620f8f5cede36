"""Deployment: a network becomes one file that takes images as they are, and says what it is.

``save`` writes it, ``convert`` translates it to other formats, and ``load`` reads any of them. The graph has
the normalization, and the file a ``ModelCard``.
"""

from lasfast.deploy.card import ModelCard
from lasfast.deploy.export import Exported, convert, measure_latency, save
from lasfast.deploy.formats import FORMATS, DeployedModel, load

__all__ = [
    "FORMATS",
    "DeployedModel",
    "Exported",
    "ModelCard",
    "convert",
    "load",
    "measure_latency",
    "save",
]
