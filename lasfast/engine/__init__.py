"""The engine: many architectures evaluated in one pass over a prefix tree of their layers."""

from lasfast.engine.backend import Backend
from lasfast.engine.calibration import CONVENTIONS
from lasfast.engine.graph import NotLowerableError
from lasfast.engine.native_backend import NativeBackend
from lasfast.engine.torch_backend import TorchBackend

__all__ = ["CONVENTIONS", "Backend", "NativeBackend", "NotLowerableError", "TorchBackend"]
