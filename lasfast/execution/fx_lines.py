"""Finds the line of a user's code at which something happens."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
"""The folders of PyTorch's and lasfast's code, and the name that code without a file has."""


def current_line(outermost: str) -> str:
    """Return the innermost line of a user's code that runs now, as file:line; "" where there is none.

    Code that called the method of the name `outermost` in this folder does not count.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_OTHERS):
            return f"{code.co_filename}:{frame.f_lineno}"
        if code.co_name == outermost and code.co_filename.startswith(_OTHERS[1]):
            break
        frame = frame.f_back
    return ""


def line_of(error: BaseException) -> str:
    """Return the innermost line of a user's code that raised an error, as file:line; "" where none did."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not frame.f_code.co_filename.startswith(_OTHERS):
            return f"{frame.f_code.co_filename}:{line}"
    return ""
