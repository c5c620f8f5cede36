"""Supernets own the weights that architectures share, and give each architecture's path as layer records."""

from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Layer, Path
from lasfast.supernets.base import LayerAssignmentSupernet, Supernet
from lasfast.supernets.cells import CellNet
from lasfast.supernets.choice import ChoiceSupernet
from lasfast.supernets.macro import MacroNet
from lasfast.supernets.mobilenet import MobileNet
from lasfast.supernets.mobilenet_designs import MobileNetDesign
from lasfast.supernets.mobilenet_v1 import MobileNetV1
from lasfast.supernets.model import ModelSupernet, from_model
from lasfast.supernets.plain import PlainNet
from lasfast.supernets.proxyless import ProxylessNAS
from lasfast.supernets.quant_resnet import QuantResNet
from lasfast.supernets.residual import ResidualNet
from lasfast.supernets.resnet50 import ResNet50
from lasfast.supernets.shufflenet import ShuffleNetV2

__all__ = [
    "CellNet",
    "ChoiceSupernet",
    "Layer",
    "LayerAssignmentSupernet",
    "LayerBuilder",
    "MacroNet",
    "MobileNet",
    "MobileNetDesign",
    "MobileNetV1",
    "ModelSupernet",
    "Path",
    "PlainNet",
    "ProxylessNAS",
    "QuantResNet",
    "ResNet50",
    "ResidualNet",
    "ShuffleNetV2",
    "Supernet",
    "from_model",
]
