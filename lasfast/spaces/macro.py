"""The space of blocks in stages, any of which but the first may be left out (NAS-Bench-Macro)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lasfast.core.checks import as_int
from lasfast.spaces.base import Architecture
from lasfast.spaces.choice import ChoiceSpace

IDENTITY = 0
"""The number of the option of blocks that are left out."""


class MacroSpace(ChoiceSpace):
    """A kind for each block of stages, or `identity`, which leaves any but the first of a stage out.

    Architectures whose blocks are the same but for the places of what is left out are one network. Searchers
    evaluate one of them (`key`).

    Args:
        repeats: the number of blocks of each stage.
        kinds: the names of the kinds, which are options 1, 2, ... of each block.
    """

    def __init__(self, repeats: Iterable[int], kinds: Iterable[str]) -> None:
        self.repeats = tuple(as_int("repeats", count, minimum=1) for count in repeats)
        super().__init__([("identity", *kinds)] * sum(self.repeats))

    def key(self, architecture: Architecture) -> Architecture:
        """Return the architecture of the same network whose left-out blocks are the last of each stage."""
        ordered: list[int] = []
        for count in self.repeats:
            first, *others = architecture[len(ordered) : len(ordered) + count]
            ordered += [first, *sorted(others, key=lambda option: option == IDENTITY)]
        return tuple(ordered)

    def describe(self) -> dict[str, Any]:
        """Return name, layers and the number of blocks of each stage."""
        return {**super().describe(), "name": "MacroSpace", "repeats": list(self.repeats)}
