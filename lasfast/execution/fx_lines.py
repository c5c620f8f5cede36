"""Where in a user's code something happens."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
"""Where the code of PyTorch and of lasfast's tracer lies, and code without a file."""


def current_line() -> str:
    """Return the innermost line of a user's code that runs now, as file:line; "" where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OTHERS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of(error: BaseException) -> str:
    """Return the innermost line of a user's code that raised an error, as file:line; "" where none did."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not frame.f_code.co_filename.startswith(_OTHERS):
            return f"{frame.f_code.co_filename}:{line}"
    return ""
