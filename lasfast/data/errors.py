"""The one exception of this package."""

from __future__ import annotations


class DataError(ValueError):
    """Data are missing, broken, or not of the shape that was asked for.

    The message names the file or folder, what is wrong with it, and what to do.
    """
