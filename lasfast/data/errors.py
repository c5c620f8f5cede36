"""The one exception of this package."""

from __future__ import annotations


class DataError(ValueError):
    """Data are missing, broken, or not of the shape that was asked for.

    The message names the file or folder, what is wrong with it, and what to do. It can be printed whatever
    the names are: a byte of a name that is not UTF-8 is shown as its escape.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.encode(errors="backslashreplace").decode())
