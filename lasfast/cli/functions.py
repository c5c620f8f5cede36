"""Functions of the user's own, which options name: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def load_function(option: str, text: str, others: str = "") -> Callable[..., Any]:
    """Return the function that an option names.

    Args:
        option: its name, for errors.
        text: what it was given.
        others: what the option takes beside functions, for the error about a malformed text.

    Raises:
        ValueError: malformed, or there is no such function.
        ImportError: the module cannot be imported.
        FileNotFoundError: there is no such file.
    """
    source, colon, name = text.rpartition(":")
    if not colon or not source or not name:
        raise ValueError(
            f"{option} must be {others}FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, got {text!r}"
        )
    function: object = getattr(_module_of(option, source), name, None)
    if not callable(function):
        raise ValueError(f"{option} {text}: {source} has no function {name!r}")
    return function


def _module_of(option: str, source: str) -> ModuleType:
    """Return a module by its dotted name or its file; it may import what is beside it, as a script may."""
    path = Path(source)
    sys.path.insert(0, str(path.parent.absolute() if source.endswith(".py") else Path.cwd()))
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ImportError as error:
            raise ImportError(f"{option}: {source} cannot be imported ({error})") from error
    if not path.is_file():
        raise FileNotFoundError(f"{option}: there is no file {source}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
