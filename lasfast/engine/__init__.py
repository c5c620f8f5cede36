"""The engine: many architectures evaluated in one pass over a prefix tree of their layers."""

from lasfast.engine.plan import Node, Plan
from lasfast.engine.statistics import CONVENTIONS
from lasfast.engine.torch_backend import TorchBackend

__all__ = ["CONVENTIONS", "Node", "Plan", "TorchBackend"]
