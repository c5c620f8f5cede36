"""Spaces of listed architectures: some of the combinations of options, such as the rows of a table."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

from lasfast.core.checks import as_ints
from lasfast.spaces.base import Architecture, stripped
from lasfast.spaces.layer_assignment import LayerAssignmentSpace
from lasfast.spaces.product import ProductSpace


class ListedSpace(ProductSpace):
    """A space of the architectures of a list. Searchers vary decisions, and leave out what is not listed.

    Args:
        architectures: the list, each of them once, all with as many decisions.
        names: for each decision, the names of the options from 0 on; None names them by their numbers.
        keys: for each architecture, what those that compute the same function share; searchers ask for one of
            these. None takes all for different.

    Attributes:
        options: for each decision, the options that are listed, ascending.

    Raises:
        ValueError: the list is empty, has an architecture twice or with other decisions, or has options
            without a name; there are not as many keys.
    """

    def __init__(
        self,
        architectures: Iterable[Sequence[int]],
        *,
        names: Sequence[Sequence[str]] | None = None,
        keys: Sequence[Hashable] | None = None,
    ) -> None:
        self._architectures = [as_ints("architecture", one) for one in architectures]
        if len({*map(len, self._architectures)}) != 1 or not self._architectures[0]:
            raise ValueError("architectures must be one or more, with as many decisions each")
        self._rows = {architecture: row for row, architecture in enumerate(self._architectures)}
        if len(self._rows) < len(self._architectures):
            raise ValueError("architectures must be different, but one is there more than once")
        self.options = tuple(map(_ascending, zip(*self._architectures, strict=True)))
        self.names = None if names is None else tuple(map(tuple, names))
        if self.names is not None:
            counts, needed = list(map(len, self.names)), [options[-1] + 1 for options in self.options]
            if len(counts) != len(needed) or any(a < b for a, b in zip(counts, needed, strict=True)):
                raise ValueError(f"names must be {needed} for the decisions, got {counts}")
        self._keys = None if keys is None else list(keys)
        if self._keys is not None and len(self._keys) != len(self._architectures):
            raise ValueError(f"keys must be {len(self._architectures)}, got {len(self._keys)}")

    def __repr__(self) -> str:
        counts = list(map(len, self.options))
        return f"ListedSpace({len(self._architectures)} of ChoiceSpace({counts}))"

    def validate(self, architecture: Iterable[int]) -> Architecture:
        """Return the architecture as a tuple of ints; ValueError where it is not listed."""
        chosen = as_ints("architecture", architecture)
        if chosen not in self._rows:
            raise ValueError(f"architecture {chosen} must be one of the {len(self._rows)} that are listed")
        return chosen

    def lacks(self, architecture: Architecture) -> bool:
        """Return whether a combination of options is not listed."""
        return architecture not in self._rows

    def key(self, architecture: Architecture) -> Hashable:
        """Return what architectures of one function share."""
        return architecture if self._keys is None else self._keys[self._rows[architecture]]

    def count(self) -> int:
        """Return how many architectures are listed."""
        return len(self._architectures)

    def enumerate(self) -> Iterator[Architecture]:
        """Yield the architectures in the order of the list."""
        return iter(self._architectures)

    def sample(self, rng: random.Random) -> Architecture:
        """Draw one of the list; all have the same probability."""
        return rng.choice(self._architectures)

    def by_cost(
        self, cost: Callable[[Architecture], float], contexts: Sequence[Architecture] = ()
    ) -> tuple[tuple[int, ...], ...]:
        """Return the options that are listed of each decision, by the mean cost of those that have them.

        `contexts` are not needed, since changing a decision leads out of the list.
        """
        costs = [cost(architecture) for architecture in self._architectures]
        ordered = []
        for taken in zip(*self._architectures, strict=True):
            by_option: dict[int, list[float]] = {}
            for option, one in zip(taken, costs, strict=True):
                by_option.setdefault(option, []).append(one)
            means = {option: math.fsum(ones) / len(ones) for option, ones in sorted(by_option.items())}
            ordered.append(tuple(sorted(means, key=means.__getitem__)))
        return tuple(ordered)

    def format(self, architecture: Iterable[int]) -> str:
        """Return the names of the options, joined by '-'."""
        chosen = self.validate(architecture)
        if self.names is None:
            return "-".join(map(str, chosen))
        return "-".join(names[option] for names, option in zip(self.names, chosen, strict=True))

    def parse(self, text: str) -> Architecture:
        """Read the text form; raise ValueError if it is malformed or not listed."""
        if self.names is None:
            return super().parse(text)
        parts = stripped(text, self.format(self._architectures[0])).split("-")
        if len(parts) != len(self.names) or not all(
            part in names for part, names in zip(parts, self.names, strict=True)
        ):
            raise ValueError(
                f"text must be an option for each of the {len(self.names)} decisions joined by '-', such as "
                f"{self.format(self._architectures[0])!r}, got {text!r}"
            )
        return self.validate(names.index(part) for part, names in zip(parts, self.names, strict=True))

    def describe(self) -> dict[str, Any]:
        """Return name, number and a checksum of the list, with names and keys."""
        return {
            "name": "ListedSpace",
            "names": None if self.names is None else list(map(list, self.names)),
            "keys": self._keys is not None,
            **_listed(list(zip(self._architectures, self._keys or self._architectures, strict=True))),
        }


class ListedAssignmentSpace(LayerAssignmentSpace):
    """The layer assignments of a list, among all that have as many layers: those that a search goes on with.

    Args:
        assignments: the list; the most layers of a group, and the greatest depth, are those of one that is
            listed.
    """

    def __init__(self, assignments: Iterable[Sequence[int]]) -> None:
        self._listed = {as_ints("architecture", one) for one in assignments}
        most = [max(layers) for layers in zip(*self._listed, strict=True)]
        super().__init__(len(most), most)
        self.max_depth = max(map(sum, self._listed))
        self._ordered = sorted(self._listed, key=lambda one: (sum(one), one))

    def __repr__(self) -> str:
        return f"ListedAssignmentSpace({len(self._listed)} of {super().__repr__()})"

    def lacks(self, architecture: Architecture) -> bool:
        """Return whether an assignment is not listed."""
        return architecture not in self._listed

    def count(self, depth: int | Iterable[int] | None = None) -> int:
        """Return how many assignments of the depth(s) are listed."""
        return len(list(self.enumerate(depth)))

    def enumerate(self, depth: int | Iterable[int] | None = None) -> Iterator[Architecture]:
        """Yield the listed assignments of the depth(s), by depth and then in dictionary order."""
        depths = self.depths(depth)
        return iter([one for one in self._ordered if sum(one) in depths])

    def sample(self, rng: random.Random, depth: int | Iterable[int] | None = None) -> Architecture:
        """Draw one listed assignment, of the depth(s) if any; all have the same probability.

        Raises:
            ValueError: none of the depth(s) is listed.
        """
        if not (listed := list(self.enumerate(depth))):
            raise ValueError(f"depth must be one that {self} lists, got {depth!r}")
        return rng.choice(listed)

    def largest(self) -> Architecture | None:
        """Return the assignment with every group at its bound, if it is listed."""
        return None if self.lacks(self.deepest) else self.deepest

    def describe(self) -> dict[str, Any]:
        """Return groups and bounds, and how many are listed with a checksum of them."""
        return {**super().describe(), "name": "ListedAssignmentSpace", **_listed(sorted(self._listed))}


def _ascending(taken: Iterable[int]) -> Sequence[int]:
    """Return the different numbers in order; as a range, where none between them is missing."""
    numbers = sorted({*taken})
    between = range(numbers[0], numbers[-1] + 1)
    return between if len(numbers) == len(between) else tuple(numbers)


def _listed(content: Sequence[object]) -> dict[str, Any]:
    """Return what tells one list from others."""
    return {"listed": len(content), "content": hashlib.sha256(repr(content).encode()).hexdigest()[:16]}
