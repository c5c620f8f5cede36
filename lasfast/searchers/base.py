"""The searcher: what all search methods look like from outside, and the bookkeeping that they share."""

from __future__ import annotations

import abc
import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lasfast.constraints import Constraint, Cost, UnknownCostError
from lasfast.core.checks import as_int
from lasfast.measurements.measurement import Measurement, as_value
from lasfast.searchers.limits import condition_text, limits_of
from lasfast.searchers.operators import Result, pareto_front, ranked
from lasfast.spaces.base import Architecture, SearchSpace

logger = logging.getLogger("lasfast")


class Searcher(abc.ABC):
    """Proposes architectures step by step, and learns from their values.

    A step is a batch of candidates. Once the value of each has been told, the step is complete, and the next
    batch is proposed::

        while candidates := searcher.ask():
            for architecture in candidates:
                searcher.tell(architecture, evaluate(architecture))
        print(searcher.best)

    A search method implements `propose` and `describe`. What it proposes must be a function of its
    hyper-parameters (a seed among them) and of `history` alone; that is why asking changes nothing, and why
    the values that were observed are all of a searcher's state. Randomness comes from
    `random.Random(f"{seed} {step}")`. Rather than work it out of the whole history in each step, a method may
    keep a summary: `begin` starts it, `learn` adds a step to it, and `propose` is called once for each step.

    Args:
        space: the architectures to search.
        constraint: says whether an architecture may be proposed; a `lasfast.constraints.Constraint` for
            instance. None admits all.

    Attributes:
        space: the architectures to search.
        constraint: says whether an architecture may be proposed, or is None.
        cost: the cost that `front` compares values with: the first of a `Constraint`, or None.
        history: (architecture, value) of the candidates of each completed step, in the order in which they
            were asked for, whatever the order in which they were told.
    """

    cost: Cost | None = None
    most: int | None = None
    """The greatest number of architectures that are asked for in all; None where that is not known."""
    extent: str | None = None
    """The hyper-parameter, as `describe` names it, that says how far the search goes, and nothing else.

    A search that has ended can then go on by a greater one, as if it had had that from the first."""
    after_training = False
    """A searcher that proposes what the supernet has learned sets this: it is asked only after training."""

    def __init__(self, space: SearchSpace, constraint: Callable[[Architecture], bool] | None = None) -> None:
        if constraint is not None and not callable(constraint):
            raise TypeError(f"constraint must be a function of an architecture, got {constraint!r}")
        self.space = space
        self.constraint = constraint
        self._met_unknown = False
        if isinstance(constraint, Constraint):
            self.cost = constraint.costs[constraint.bounds[0].cost]
        self.begin()

    def begin(self) -> None:
        """Forget all that was observed."""
        self.history: list[list[Result]] = []
        self._best: Result | None = None
        self._start_step()

    def _start_step(self) -> None:
        self._values: dict[Architecture, float] = {}
        self._candidates: tuple[Architecture, ...] | None = None
        self._asked: frozenset[Architecture] = frozenset()
        self._first_pending = 0

    def learn(self, results: Sequence[Result]) -> None:  # noqa: B027
        """Add a completed step to what the search method keeps of the history."""

    @abc.abstractmethod
    def propose(self) -> Iterable[Architecture]:
        """Return the candidates of the next step, of which repeated ones are dropped; none end the search."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return name and hyper-parameters as JSON values; searchers of equal descriptions search alike."""

    @property
    def named_costs(self) -> dict[str, Cost]:
        """The costs that the search is bounded in, by name; those of other functions have no names."""
        return {bound.cost: cost for bound, cost in limits_of(self.constraint)}

    @property
    def step(self) -> int:
        """The number of completed steps."""
        return len(self.history)

    @property
    def candidates(self) -> tuple[Architecture, ...]:
        """The candidates of the current step, observed or pending; () when finished."""
        if self._candidates is None:
            self._candidates = tuple(dict.fromkeys(map(self.space.validate, self.propose())))
            self._asked = frozenset(self._candidates)
        return self._candidates

    @property
    def finished(self) -> bool:
        """True once the search has ended."""
        return not self.candidates

    def ask(self, n: int | None = None) -> list[Architecture]:
        """Return the first `n` (None: all) pending candidates of the current step; [] when finished.

        Asking changes nothing: candidates are pending until their values are told.
        """
        n = None if n is None else as_int("n", n, minimum=1)
        candidates = self.candidates
        # Asking one by one must not go through all those that were observed each time.
        while self._first_pending < len(candidates) and candidates[self._first_pending] in self._values:
            self._first_pending += 1
        left = (candidates[place] for place in range(self._first_pending, len(candidates)))
        pending = (candidate for candidate in left if candidate not in self._values)
        return list(itertools.islice(pending, n))

    def tell(self, architecture: Iterable[int], value: Measurement | float) -> None:
        """Observe the value of a pending candidate of the current step.

        Args:
            architecture: one that `ask()` gives; their order does not matter.
            value: its Measurement (of which `value`, the top-1 accuracy, counts) or any finite number; higher
                is better.

        Raises:
            ValueError: the architecture is no candidate of the current step, or was told before; or the value
                is another architecture's measurement, NaN or infinite.
            TypeError: the architecture is none, or the value no number.
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
        results = self._observed()
        self._best = self._better(results)
        self.history.append(results)
        self._start_step()
        self.learn(results)

    @property
    def results(self) -> list[Result]:
        """All that was observed, in the order in which it was asked for, an incomplete step included."""
        return [result for step in self.history for result in step] + self._observed()

    @property
    def best(self) -> Result:
        """(architecture, value) of the highest value observed; of equal ones the first that was asked for.

        Raises:
            RuntimeError: nothing was told yet, or nothing that may be the best.
        """
        best = self._better(self._observed())
        if best is None:
            raise RuntimeError("there is no best architecture yet: nothing that may be the best was told")
        return best

    def front(self, cost: Cost | None = None) -> list[Result]:
        """Return the Pareto front of all that was observed, the highest values for the lowest costs.

        Args:
            cost: the cost of an architecture; None takes the searcher's own `cost`.

        Returns:
            (architecture, value), the cheapest first.

        Raises:
            ValueError: no cost is given, and the searcher has none.
        """
        cost = cost or self.cost
        if cost is None:
            raise ValueError("cost must be given: this searcher knows of none")
        return pareto_front(self.results, cost)

    @property
    def ended_early(self) -> str:
        """A sentence that says what the search has not reached of what it was to, and why; "" for nothing."""
        measured = len(self.results)
        if self.most is None or measured >= self.most or not self.finished:
            return ""
        condition = condition_text(limits_of(self.constraint), self.constraint)
        return (
            f"The search measured {measured} of the {self.most} architectures that it was to: it found no "
            f"other in {self.space}{f' that meets {condition}' if condition else ''}."
        )

    def may_win(self, architecture: Architecture) -> bool:
        """Return whether an architecture may be the best; a search method may ask for others on its way."""
        return True

    def admits(self, architecture: Architecture) -> bool:
        """Return whether an architecture of the space is known to meet the constraint.

        One whose cost is not known is not admitted; the first time, that is logged.

        Raises:
            TypeError: the constraint says neither True nor False.
        """
        if self.space.lacks(architecture):
            return False
        if self.constraint is None:
            return True
        try:
            admitted = self.constraint(architecture)
        except UnknownCostError as error:
            if not self._met_unknown:
                logger.warning("architectures of unknown cost are left out of the search: %s", error)
            self._met_unknown = True
            return False
        if not isinstance(admitted, bool | np.bool_):
            raise TypeError(f"constraint must say True or False, got {admitted!r} for {architecture}")
        return bool(admitted)

    def _better(self, results: Iterable[Result]) -> Result | None:
        """Return the best of these results and of the completed steps."""
        earlier = [] if self._best is None else [self._best]
        won = itertools.chain(earlier, (result for result in results if self.may_win(result[0])))
        return max(won, key=lambda result: result[1], default=None)

    def state(self) -> dict[str, Any]:
        """Return all that was observed, under "told", with the description, as JSON values."""
        return {
            "searcher": self.describe(),
            "told": [[list(architecture), value] for architecture, value in self.results],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave, and forget what this searcher has observed itself.

        Raises:
            ValueError: the state is of a searcher with other hyper-parameters, or does not fit together. The
                searcher is left as it was.
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

    def _observed(self) -> list[Result]:
        """Return the results of the current step so far, in the order in which they were asked for."""
        return [
            (candidate, self._values[candidate])
            for candidate in (self.candidates if self._values else ())
            if candidate in self._values
        ]


def best_per_depth(results: Iterable[Result]) -> dict[int, Result]:
    """Return the best layer assignment of each depth (its sum), by depth; of equal values the first."""
    best: dict[int, Result] = {}
    for result in ranked(results):
        best.setdefault(sum(result[0]), result)
    return dict(sorted(best.items()))


def _listed(architectures: list[Architecture], most: int = 8) -> str:
    """Return a readable list of architectures, which stays short however many there are."""
    text = ", ".join(map(str, architectures[:most]))
    return f"{text}, ... ({len(architectures)} in all)" if len(architectures) > most else text or "none"
