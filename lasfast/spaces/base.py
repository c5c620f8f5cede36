"""The interface of a search space, and its text form."""

from __future__ import annotations

import abc
import random
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypeAlias

from lasfast.spaces.names import short_name

Architecture: TypeAlias = tuple[int, ...]
"""One sub-network of a supernet: an int for each decision of its search space."""


class SearchSpace(abc.ABC):
    """A set of architectures: some decisions, their options, and which combinations are valid."""

    @abc.abstractmethod
    def validate(self, architecture: Iterable[int]) -> Architecture:
        """Return the architecture as a tuple of ints; ValueError or TypeError if it is not in the space."""

    @abc.abstractmethod
    def sample(self, rng: random.Random) -> Architecture:
        """Draw one architecture; all have the same probability."""

    @abc.abstractmethod
    def enumerate(self) -> Iterator[Architecture]:
        """Yield every architecture once, always in the same order."""

    @abc.abstractmethod
    def count(self) -> int:
        """Return how many architectures there are, without enumerating them."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return JSON-able values that identify the space: equal descriptions mean the same space."""

    def largest(self) -> Architecture | None:
        """Return the architecture whose sub-network has all weights; None where no single one has."""
        return None

    def lacks(self, architecture: Architecture) -> bool:
        """Return whether a combination of options is no architecture of the space, which few spaces have."""
        return False

    def key(self, architecture: Architecture) -> Hashable:
        """Return what architectures of one function share: the architecture, where all functions differ."""
        return architecture

    def __contains__(self, architecture: object) -> bool:
        try:
            self.validate(architecture)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False
        return True

    def format(self, architecture: Iterable[int]) -> str:
        """Return the text form, such as `2-5-2-3`."""
        return "-".join(map(str, self.validate(architecture)))

    def name(self, architecture: Iterable[int]) -> str:
        """Return the text form, or where that is long, a short name (`lasfast.spaces.names`)."""
        return short_name(self.format(architecture))

    def parse(self, text: str) -> Architecture:
        """Read the text form; raise ValueError if it is malformed or not in the space."""
        text = stripped(text, "2-5-2-3")
        if not re.fullmatch(r"[0-9]+(-[0-9]+)*", text):
            raise ValueError(f"text must be numbers joined by '-', such as '2-5-2-3', got {text!r}")
        return self.validate(int(part) for part in text.split("-"))


def stripped(text: object, example: str) -> str:
    """Return an architecture's text form without surrounding blanks; TypeError unless it is a string."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a string such as {example!r}, got {text!r}")
    return text.strip()
