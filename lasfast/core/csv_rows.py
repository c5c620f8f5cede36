"""Reads csv files as spreadsheets and people leave them: with other separators, a BOM, or empty lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


def read_rows(path: Path, wanted: Collection[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names in the first line, and each further line's number and fields, as many as names.

    Fields are separated by the character (comma, semicolon or tab) that gives the first line all names that
    are wanted; by commas where none does. A BOM, empty lines, and spaces around fields are left out. Empty
    fields at the end of a line may be missing.

    Args:
        path: the file, in UTF-8.
        wanted: names of columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, not UTF-8 or no csv; a wanted name is there twice; or a line has more
            fields than the first.
    """
    text = path.read_bytes().decode("utf-8-sig")
    separator = next((one for one in SEPARATORS if {*wanted} <= {*_lines(text, one, most=1)[0][1]}), ",")
    (_, names), *rows = _lines(text, separator)
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise ValueError(f"there is more than one column {twice[0]}")
    for number, fields in rows:
        fields += [""] * (len(names) - len(fields))
        if len(fields) > len(names):
            raise ValueError(
                f"line {number} has {len(fields)} fields, but the first {len(names)}: a field with a "
                f"{SEPARATORS[separator]} in it must stand in double quotes, and decimals behind a point"
            )
    return names, rows


def possible_names(path: Path) -> set[str]:
    """Return the names in the first line, whichever character separates them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, not UTF-8 or no csv.
    """
    text = path.read_bytes().decode("utf-8-sig")
    return {name for separator in SEPARATORS for name in _lines(text, separator, most=1)[0][1]}


def _lines(text: str, separator: str, most: int | None = None) -> list[tuple[int, list[str]]]:
    """Return number and fields of each line, or of the first `most`, that are not empty."""
    lines = []
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        for fields in reader:
            fields = [field.strip() for field in fields]
            while fields and not fields[-1]:
                fields.pop()
            if fields:
                lines.append((reader.line_num, fields))
            if len(lines) == most:
                break
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    if not lines:
        raise ValueError("the file is empty")
    return lines
