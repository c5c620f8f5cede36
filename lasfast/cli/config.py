"""The configuration of a run: its options, written down so that later commands build the same objects."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from lasfast.core.files import atomic_write_json
from lasfast.study.files import RESULT

CONFIG = "config.json"

T = TypeVar("T")


def write_config(directory: Path, options: Any, **more: Any) -> None:
    """Write options as `config.json`; one that is there stays, since a resumed run has to be the same."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / CONFIG).exists():
        values = dataclasses.asdict(options) | more
        paths = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
        atomic_write_json(directory / CONFIG, values | paths)


def read_options(directory: Path) -> dict[str, Any]:
    """Return the options of a run by name, and the name of its search as `search`; ValueError if damaged."""
    values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{directory / CONFIG} is damaged: no JSON object")
    return values


def read_config(directory: Path, options: type[T]) -> T:
    """Read the options that a run in `directory` was started with.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the file is damaged.
    """
    path = directory / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{directory} holds no run of this command line: there is no {path}")
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    try:
        values = read_options(directory)
        # An option that an older version did not have yet is at its default.
        asked = [field for field in fields if field.name in values or field.default is dataclasses.MISSING]
        chosen = {field.name: values[field.name] for field in asked}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); restore it, or start the run again elsewhere"
        ) from error
    return options(**chosen)


def blocks_of_run(directory: Path) -> str:
    """Return the blocks of the best that a search of shufflenet-v2 has found, for `--blocks`.

    Raises:
        FileNotFoundError: there is no run, or one that has not ended.
        ValueError: it searched something else, or its files are damaged.
    """
    if not (directory / CONFIG).exists():
        raise FileNotFoundError(f"--blocks {directory} holds no run: there is no {directory / CONFIG}")
    searched = read_options(directory).get("supernet")
    if searched != "shufflenet-v2":
        raise ValueError(f"--blocks must be a search of --supernet shufflenet-v2, got {directory} of {searched}")
    result = directory / RESULT
    if not result.exists():
        raise FileNotFoundError(f"--blocks {directory} has not ended: --resume it first")
    try:
        return str(json.loads(result.read_text(encoding="utf-8"))["best"]["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{result} is damaged ({error!r}); resume the study to write it again") from error
