"""The configuration of a run: its options, written down so that later commands build the same objects."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from lasfast.cli.context import find_command
from lasfast.core.files import atomic_write_json
from lasfast.data.loading import PLACEHOLDERS, ROOT_VARIABLE
from lasfast.study.files import JOURNAL, RESULT

CONFIG = "config.json"
COMMAND = "command"
"""The value of a configuration that has the words of the command, such as `["search", "nir"]`."""
NOT_REPEATED = ("resume", "quiet")
"""Options that say nothing of a run."""

T = TypeVar("T")


def write_config(
    directory: Path,
    options: Any,
    command: Sequence[str],
    more: Mapping[str, Any] = MappingProxyType({}),
    *,
    anew: bool = False,
) -> None:
    """Write options, command and further values as `config.json`.

    One that is there stays where anything was measured, since a resumed run has to be the same, unless `anew`
    is given. Paths are made absolute, so that the run is understood from any folder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / CONFIG).exists() and (directory / JOURNAL).exists() and not anew:
        return
    values = dataclasses.asdict(options) | dict(more)
    if values.get("data_root", "") is None and ROOT_VARIABLE not in os.environ:
        named = values["data"] != "digits" and ":" not in values["data"]
        values["data_root"] = Path("data") if named else None
    found = {name: absolute(name, value) for name, value in values.items()}
    atomic_write_json(directory / CONFIG, found | {COMMAND: list(command)})


def absolute(name: str, value: Any) -> Any:
    """Return the value of an option with the path that is in it, if there is one, made absolute."""
    if name == "directory":
        return None if value is None else str(value)
    if isinstance(value, Path):
        return str(value.expanduser().absolute())
    if not isinstance(value, str):
        return value
    kind, colon, rest = value.partition(":")
    if name == "data" and kind in PLACEHOLDERS and colon:
        return f"{kind}:{Path(rest).expanduser().absolute()}"
    if name in ("validation_archives", "test_archives"):
        return str(Path(value).expanduser().absolute())
    file, colon, function = value.rpartition(":")
    if colon and file.endswith(".py"):
        return f"{Path(file).expanduser().absolute()}:{function}"
    return str(Path(value).absolute()) if name == "teacher" and Path(value).is_file() else value


def read_options(directory: Path) -> dict[str, Any]:
    """Return the options of a run by name, and the words of its command as `COMMAND`.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the file is damaged.
    """
    path = directory / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{directory} holds no run of this command line: there is no {path}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); restore it, or start the run again elsewhere"
        ) from error
    return values


def read_config(directory: Path, options: type[T]) -> T:
    """Read the options that a run in `directory` was started with.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the file is damaged.
    """
    values = read_options(directory)
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    # An option that an older version did not have yet is at its default.
    asked = [field for field in fields if field.name in values or field.default is dataclasses.MISSING]
    try:
        return options(**{field.name: values[field.name] for field in asked})
    except KeyError as error:
        raise ValueError(
            f"{directory / CONFIG} is damaged ({error!r}); restore it, or start the run again elsewhere"
        ) from error


def words_of(config: Mapping[str, Any]) -> list[str]:
    """Return the words of the command, without `lasfast`, that starts a run with the options of another.

    Options at their defaults are left out, but for those in `given`, where the configuration has that.
    """
    words = [*config[COMMAND]]
    command, _ = find_command(words)
    for parameter in sorted(command.params, key=lambda one: one.param_type_name != "argument"):
        value = config.get(parameter.name or "")
        default = value == parameter.default and parameter.name not in config.get("given", ())
        if value is None or default or parameter.name in NOT_REPEATED:
            continue
        if parameter.param_type_name == "argument":
            words += map(str, value if isinstance(value, list) else [value])
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [parameter.opts[0], str(value)]
    return words


def command_of(config: Mapping[str, Any]) -> str:
    """Return the command that starts a run with the options of another, as it is typed."""
    return shlex.join(["lasfast", *words_of(config)])


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
        raise ValueError(
            f"--blocks must be a search of --supernet shufflenet-v2, got {directory} of {searched}"
        )
    result = directory / RESULT
    if not result.exists():
        raise FileNotFoundError(f"--blocks {directory} has not ended: --resume it first")
    try:
        return str(json.loads(result.read_text(encoding="utf-8"))["best"]["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{result} is damaged ({error!r}); resume the study to write it again") from error
