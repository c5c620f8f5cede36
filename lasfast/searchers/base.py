"""Ask/tell: what every search method looks like from outside, and the bookkeeping all of them share."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from lasfast.checks import as_int
from lasfast.measurement import Measurement, as_value
from lasfast.spaces.base import Architecture, SearchSpace

Result: TypeAlias = tuple[Architecture, float]
"""An architecture and its value; higher is better."""


class Searcher(abc.ABC):
    """Proposes architectures step by step, and learns from their values.

    A step is a batch of candidates. Once each of them has been told, the step is complete and the next batch
    is proposed:

        while candidates := searcher.ask():
            for architecture in candidates:
                searcher.tell(architecture, evaluate(architecture))
        print(searcher.best)

    A search method implements `propose` and `describe`. What it proposes must be a function of its
    hyper-parameters (a seed among them) and of `history` alone; that is why asking changes nothing, and why a
    searcher's state is just what it was told. Randomness comes from `random.Random(f"{seed} {step}")`.

    Attributes:
        space: where the architectures come from.
        history: for each completed step, (architecture, value) of its candidates in the order they were
            asked, whatever the order they were told in.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.history: list[list[Result]] = []
        self._values: dict[Architecture, float] = {}
        self._candidates: tuple[Architecture, ...] | None = None

    @abc.abstractmethod
    def propose(self) -> Iterable[Architecture]:
        """The candidates of the next step; repeated ones are dropped, none at all ends the search."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name and hyper-parameters as JSON-able values: equal descriptions search alike."""

    @property
    def step(self) -> int:
        """How many steps were completed."""
        return len(self.history)

    @property
    def candidates(self) -> tuple[Architecture, ...]:
        """The candidates of the current step, told or not; () when finished."""
        if self._candidates is None:
            self._candidates = tuple(dict.fromkeys(map(self.space.validate, self.propose())))
        return self._candidates

    @property
    def finished(self) -> bool:
        """Whether the search has ended."""
        return not self.candidates

    def ask(self, n: int | None = None) -> list[Architecture]:
        """The candidates of the current step that were not told yet, the first `n` of them; [] when finished.

        Nothing is learned from asking: the same are given until they are told.
        """
        n = None if n is None else as_int("n", n, minimum=1)
        return [candidate for candidate in self.candidates if candidate not in self._values][:n]

    def tell(self, architecture: Iterable[int], value: Measurement | float) -> None:
        """Learn how good a candidate of the current step is.

        Args:
            architecture: one that `ask()` gives; each is told once, in any order.
            value: its Measurement (of which `value`, the top-1 accuracy, counts) or any finite number; higher
                is better.

        Raises:
            ValueError: not a candidate of the current step, told before, another architecture's measurement,
                or a value that is NaN or infinite.
            TypeError: not an architecture or not a number.
        """
        architecture = self.space.validate(architecture)
        if isinstance(value, Measurement) and value.architecture != architecture:
            raise ValueError(
                f"value must be the measurement of architecture {architecture}, "
                f"got that of {value.architecture}"
            )
        number = as_value(value)
        if architecture not in self.candidates:
            raise ValueError(
                f"architecture {architecture} is not a candidate of step {self.step}; "
                f"tell those that ask() gives: {_listed(self.ask())}"
            )
        if architecture in self._values:
            raise ValueError(
                f"architecture {architecture} was already told, with value {self._values[architecture]}"
            )
        self._values[architecture] = number
        if len(self._values) == len(self.candidates):
            self.history.append(self._told())
            self._values, self._candidates = {}, None

    @property
    def results(self) -> list[Result]:
        """Everything that was told, in the order it was asked; those of an incomplete step included."""
        return [result for step in self.history for result in step] + self._told()

    @property
    def best(self) -> Result:
        """(architecture, value) of the highest value told so far; of equal ones the first that was asked.

        Raises:
            RuntimeError: nothing was told yet.
        """
        if not self.results:
            raise RuntimeError("there is no best architecture yet: nothing was told")
        return ranked(self.results)[0]

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON-able values."""
        return {
            "searcher": self.describe(),
            "told": [[list(architecture), value] for architecture, value in self.results],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave, in place of what this searcher has learned itself.

        Raises:
            ValueError: the state of a searcher with other hyper-parameters, or one that does not fit
                together. The searcher is left as it was.
        """
        if not isinstance(state, Mapping) or set(state) != {"searcher", "told"}:
            raise ValueError(f"state must have 'searcher' and 'told', what state() gives; got {state!r}")
        if state["searcher"] != self.describe():
            raise ValueError(f"state is one of {state['searcher']}, but this searcher is {self.describe()}")
        before = self.history, self._values, self._candidates
        self.history, self._values, self._candidates = [], {}, None
        try:
            for architecture, value in state["told"]:
                self.tell(architecture, value)
        except (TypeError, ValueError) as error:
            self.history, self._values, self._candidates = before
            raise ValueError(f"state does not fit together: {error}") from error

    def _told(self) -> list[Result]:
        """The results of the current step so far, in the order they were asked."""
        return [
            (candidate, self._values[candidate])
            for candidate in (self.candidates if self._values else ())
            if candidate in self._values
        ]


def ranked(results: Iterable[Result]) -> list[Result]:
    """The best first; of equal values the one that comes first in `results` stays first."""
    return sorted(results, key=lambda result: -result[1])


def best_per_depth(results: Iterable[Result]) -> dict[int, Result]:
    """The best layer assignment of each depth (its sum), by depth; of equal values the first."""
    best: dict[int, Result] = {}
    for result in ranked(results):
        best.setdefault(sum(result[0]), result)
    return dict(sorted(best.items()))


def _listed(architectures: list[Architecture], most: int = 8) -> str:
    """A readable list that stays short however many there are."""
    text = ", ".join(map(str, architectures[:most]))
    return f"{text}, ... ({len(architectures)} in all)" if len(architectures) > most else text or "none"
