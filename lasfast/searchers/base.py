"""Ask/tell: what every search method looks like from outside, and the bookkeeping all of them share."""

from __future__ import annotations

import abc
import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lasfast.constraints import Constraint, Cost
from lasfast.core.checks import as_int
from lasfast.measurements.measurement import Measurement, as_value
from lasfast.searchers.operators import Result, pareto_front, ranked
from lasfast.spaces.base import Architecture, SearchSpace


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
    What it would otherwise work out of the whole history in each step, it may keep: `begin` starts it,
    `learn` adds a step to it, and `propose` is called once for each step.

    Args:
        space: where the architectures come from.
        constraint: which of them may be proposed: a function of an architecture, True or False; a
            `lasfast.constraints.Constraint` for instance.

    Attributes:
        space: where the architectures come from.
        constraint: which may be proposed; None is all.
        cost: what `front` sets the values against: the first cost of a `Constraint`, or None.
        history: for each completed step, (architecture, value) of its candidates in the order they were
            asked, whatever the order they were told in.
    """

    cost: Cost | None = None
    after_training = False
    """Whether it can be asked only once the supernet is trained, since it proposes what that has learned."""

    def __init__(self, space: SearchSpace, constraint: Callable[[Architecture], bool] | None = None) -> None:
        if constraint is not None and not callable(constraint):
            raise TypeError(f"constraint must be a function of an architecture, got {constraint!r}")
        self.space = space
        self.constraint = constraint
        if isinstance(constraint, Constraint):
            self.cost = constraint.costs[constraint.bounds[0].cost]
        self.begin()

    def begin(self) -> None:
        """Forget everything that was told."""
        self.history: list[list[Result]] = []
        self._best: Result | None = None
        self._start_step()

    def _start_step(self) -> None:
        self._values: dict[Architecture, float] = {}
        self._candidates: tuple[Architecture, ...] | None = None
        self._asked: frozenset[Architecture] = frozenset()
        self._untold = 0

    def learn(self, results: Sequence[Result]) -> None:  # noqa: B027
        """Take in a step that was completed; what the search method keeps of it."""

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
            self._asked = frozenset(self._candidates)
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
        candidates = self.candidates
        # All before `_untold` were told: asking one by one must not go through all of them each time.
        while self._untold < len(candidates) and candidates[self._untold] in self._values:
            self._untold += 1
        left = (candidates[place] for place in range(self._untold, len(candidates)))
        return list(itertools.islice((candidate for candidate in left if candidate not in self._values), n))

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
        candidates = self.candidates
        if architecture not in self._asked:
            raise ValueError(
                f"architecture {architecture} is not a candidate of step {self.step}; "
                f"tell those that ask() gives: {_listed(self.ask())}"
            )
        if architecture in self._values:
            raise ValueError(
                f"architecture {architecture} was already told, with value {self._values[architecture]}"
            )
        self._values[architecture] = number
        if len(self._values) == len(candidates):
            self._complete_step()

    def _complete_step(self) -> None:
        results = self._told()
        self._best = self._better(results)
        self.history.append(results)
        self._start_step()
        self.learn(results)

    @property
    def results(self) -> list[Result]:
        """Everything that was told, in the order it was asked; those of an incomplete step included."""
        return [result for step in self.history for result in step] + self._told()

    @property
    def best(self) -> Result:
        """(architecture, value) of the highest value told so far; of equal ones the first that was asked.

        Raises:
            RuntimeError: nothing was told yet, or nothing that may be the best.
        """
        best = self._better(self._told())
        if best is None:
            raise RuntimeError("there is no best architecture yet: nothing that may be the best was told")
        return best

    def front(self, cost: Cost | None = None) -> list[Result]:
        """The Pareto front of all that was told: the highest values for the lowest costs, the cheapest first.

        Args:
            cost: of an architecture; None takes the searcher's own `cost`.

        Raises:
            ValueError: no cost is given, and the searcher has none.
        """
        cost = cost or self.cost
        if cost is None:
            raise ValueError("cost must be given: this searcher knows of none")
        return pareto_front(self.results, cost)

    def may_win(self, architecture: Architecture) -> bool:
        """Whether it may be the best; a search method may ask for others on its way."""
        return True

    def admits(self, architecture: Architecture) -> bool:
        """Whether an architecture meets the constraint.

        Raises:
            TypeError: the constraint says neither True nor False.
        """
        if self.constraint is None:
            return True
        verdict = self.constraint(architecture)
        if not isinstance(verdict, bool | np.bool_):
            raise TypeError(f"constraint must say True or False, got {verdict!r} for {architecture}")
        return bool(verdict)

    def _better(self, results: Iterable[Result]) -> Result | None:
        """The best of these and of the completed steps."""
        earlier = [] if self._best is None else [self._best]
        won = itertools.chain(earlier, (result for result in results if self.may_win(result[0])))
        return max(won, key=lambda result: result[1], default=None)

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
        fresh = copy.copy(self)
        fresh.begin()
        try:
            for architecture, value in state["told"]:
                fresh.tell(architecture, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"state does not fit together: {error}") from error
        self.__dict__.update(fresh.__dict__)

    def _told(self) -> list[Result]:
        """The results of the current step so far, in the order they were asked."""
        return [
            (candidate, self._values[candidate])
            for candidate in (self.candidates if self._values else ())
            if candidate in self._values
        ]


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
