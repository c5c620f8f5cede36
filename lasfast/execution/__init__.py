"""PyTorch and layer records: running records, reading them off networks, writing networks from them."""

from lasfast.execution.accelerate import accelerate
from lasfast.execution.from_fx import UntraceableError, trace
from lasfast.execution.to_fx import extract

__all__ = ["UntraceableError", "accelerate", "extract", "trace"]
