"""What every search space can do."""

from __future__ import annotations

import abc
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

Architecture: TypeAlias = tuple[int, ...]
"""One sub-network: an int per decision of its space."""


class SearchSpace(abc.ABC):
    """The decisions, their options, and what is valid."""

    @abc.abstractmethod
    def validate(self, architecture: Iterable[int]) -> Architecture:
        """The architecture as a tuple of ints; ValueError or TypeError if it is not in the space."""

    @abc.abstractmethod
    def sample(self, rng: random.Random) -> Architecture:
        """Draw one architecture, each with the same probability."""

    @abc.abstractmethod
    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture once, always in the same order."""

    @abc.abstractmethod
    def count(self) -> int:
        """How many architectures there are, without enumerating them."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What identifies the space, as JSON-able values: equal descriptions mean the same space."""

    def __contains__(self, architecture: object) -> bool:
        try:
            self.validate(architecture)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False
        return True

    def format(self, architecture: Iterable[int]) -> str:
        """The text form, such as `2-5-2-3`."""
        return "-".join(map(str, self.validate(architecture)))

    def parse(self, text: str) -> Architecture:
        """Read the text form; raise ValueError if it is malformed or not in the space."""
        if not isinstance(text, str):
            raise TypeError(f"text must be a string such as '2-5-2-3', got {text!r}")
        if not re.fullmatch(r"[0-9]+(-[0-9]+)*", text.strip()):
            raise ValueError(f"text must be numbers joined by '-', such as '2-5-2-3', got {text!r}")
        return self.validate(int(part) for part in text.strip().split("-"))
