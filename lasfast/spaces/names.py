"""Names of architectures whose text form is too long to be read in a table or to be a file's name."""

from __future__ import annotations

import hashlib
import re

LONGEST = 24
"""Texts of so many characters are names themselves."""
PREFIX = "net-"
_SHORT = re.compile(rf"{PREFIX}[0-9a-f]{{8}}")


def short_name(text: str) -> str:
    """Return an architecture's text form, or where that is long, a name that is a digest of it.

    The name of an architecture is the same in every run: `net-` and eight hexadecimal digits.
    """
    if len(text) <= LONGEST:
        return text
    return PREFIX + hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def is_short_name(text: str) -> bool:
    """Return whether a text is a name that `short_name` has made."""
    return _SHORT.fullmatch(text) is not None
