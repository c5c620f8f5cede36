"""Runs: the measurements of a study, read from its directory."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lasfast.constraints import parse_bounds
from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.schema import NO_COSTS, SECONDS
from lasfast.searchers.operators import pareto_front
from lasfast.spaces import Architecture
from lasfast.spaces.described import space_of_description
from lasfast.spaces.names import short_name
from lasfast.study.certainty import Certainty
from lasfast.study.comparison import Comparison
from lasfast.study.files import JOURNAL, RESULT, TABLE
from lasfast.study.result import latency_of

TITLES = {
    "itnas": "ITNAS",
    "nir": "NIR",
    "layernas": "LayerNAS",
    "regularized-evolution": "Regularized evolution",
}


SHOWN_COSTS = ("flops", "params", "bitops")
"""The costs that reports show of any search."""


@dataclass(frozen=True)
class Candidate:
    """A measured architecture of a step, as a report shows it, with those costs that are known.

    `costs` are all of them by name. `latency` is the name of a latency that the search is bounded in, with
    its seconds. `own` is the name of a cost of a table's own that the search is bounded in, with its amount.
    """

    text: str
    measurement: Measurement
    won: bool
    flops: float | None = None
    params: float | None = None
    bitops: float | None = None
    latency: tuple[str, float] | None = None
    own: tuple[str, float] | None = None
    costs: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The text, or where that is long, a short name."""
        return short_name(self.text)

    @property
    def cost(self) -> float:
        """The cost that accuracy is compared with; 0 if none is known.

        That is a table's own where the search is bounded in it, or latency, bit operations or FLOPs.
        """
        if self.own is not None:
            return self.own[1]
        return (self.latency[1] if self.latency else None) or self.bitops or self.flops or 0

    @property
    def has_cost(self) -> bool:
        """It is true where `cost` is known."""
        return any(one is not None for one in (self.own, self.latency, self.bitops, self.flops))

    @property
    def depth(self) -> int:
        """The number of layers of an assignment."""
        return sum(self.measurement.architecture)


@dataclass(frozen=True)
class Run:
    """A study's description and its measurements.

    Attributes:
        directory: where the study writes.
        description: the header of its journal.
        steps: the candidates of each step, in the order in which they were asked for.
        finished: whether there is a result.
        best: the candidate that the study ended with; None while it runs.
        highest: the one of the highest accuracy among those that might be the best; None while it runs.
        certainty: whether that can be told from the others, where the measurements say it.
        comparison: how it compares with what costs the same, where the study was asked for it.
        from_scratch: the same of networks that were trained from scratch, where a command has trained them.
        ended_by_seconds: whether it ended because its seconds were spent.
        ended_early: what it has not reached of what it was to, and why, in a sentence; "" for nothing.
    """

    directory: Path
    description: dict[str, Any]
    steps: tuple[tuple[Candidate, ...], ...]
    finished: bool
    best: Candidate | None = None
    highest: Candidate | None = None
    certainty: Certainty | None = None
    comparison: Comparison | None = None
    ended_by_seconds: bool = False
    from_scratch: Comparison | None = None
    ended_early: str = ""

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        known_costs: Callable[[Architecture], Mapping[str, float]] | None = None,
    ) -> Run:
        """Read a study's directory; it may still be running.

        `known_costs` gives the costs of an architecture while no result has them, such as `Study.costs`.

        Raises:
            FileNotFoundError: there is no study in `directory`.
            JournalError, ValueError: a file, which is named, is damaged or not a study's.
        """
        directory = Path(directory)
        journal = directory / JOURNAL
        if not journal.exists():
            raise FileNotFoundError(f"{directory} holds no study: there is no {journal}")
        description, entries = Journal.read(journal)
        if "searcher" not in description:
            raise ValueError(
                f"{directory} holds networks trained from scratch, and no search; their table is "
                f"{directory / TABLE}"
            )
        result = _read_result(directory / RESULT)
        steps: dict[int, list[Measurement]] = {}
        for step, measurement in entries:
            steps.setdefault(step, []).append(measurement)
        written = [*result.get("winners", {}).values(), *itertools.chain(*result.get("steps", []))]
        known = {tuple(one["architecture"]): one for one in written}

        def costs(architecture: Architecture) -> Mapping[str, float]:
            if architecture in known or known_costs is None:
                found = known.get(architecture, {})
                return {name: cost for name, cost in found.items() if name not in NO_COSTS}
            return known_costs(architecture)

        space = space_of_description(description["searcher"].get("space") or {})

        def text(architecture: Architecture) -> str:
            written = known.get(architecture, {}).get("text")
            return written or (space.format(architecture) if space else "-".join(map(str, architecture)))

        own = _own_cost(description)
        read = tuple(tuple(candidates_of(step, costs, text, own)) for _, step in sorted(steps.items()))
        candidates = {one.measurement.architecture: one for step in read for one in step}
        chosen = {
            which: tuple(result[which]["architecture"]) for which in ("best", "highest") if which in result
        }
        if lost := [one for one in chosen.values() if one not in candidates]:
            raise ValueError(
                f"{journal} must hold the measurement of {text(lost[0])}, which {directory / RESULT} has, "
                f"got {len(candidates)} others: its end is lost"
            )
        best, highest = (candidates.get(chosen.get(which, ())) for which in ("best", "highest"))
        try:
            certain = Certainty.from_json(result["certainty"]) if "certainty" in result else None
            compared, scratch = (
                Comparison.from_json(result[name]) if name in result else None
                for name in ("comparison", "from_scratch")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(directory / RESULT, error) from error
        ended = result.get("ended_by") == SECONDS
        return cls(
            directory,
            description,
            read,
            bool(result),
            best,
            highest,
            certain,
            compared,
            ended_by_seconds=ended,
            from_scratch=scratch,
            ended_early=result.get("ended_early", ""),
        )

    @property
    def has_depths(self) -> bool:
        """True where the study searches layer assignments by depth."""
        return self.description["searcher"]["name"] in ("nir", "random") and (
            self.description["searcher"].get("space", {}).get("name", "LayerAssignmentSpace")
            == "LayerAssignmentSpace"
        )

    @property
    def is_derived(self) -> bool:
        """True where the search asks for a single architecture, which is derived from its training."""
        return bool(self.description["searcher"]["name"] == "itnas")

    @property
    def ranked(self) -> list[Candidate]:
        """All candidates by accuracy, the highest first; of equal ones, and of one, the first measurement."""
        known: dict[Architecture, Candidate] = {}
        for one in (one for step in self.steps for one in step):
            known.setdefault(one.measurement.architecture, one)
        return sorted(known.values(), key=lambda one: -one.measurement.top1)

    @property
    def front(self) -> list[Candidate]:
        """The Pareto front of accuracy and cost, the cheapest first; [] where no costs are known."""
        known = {one.measurement.architecture: one for step in self.steps for one in step if one.has_cost}
        values = [(architecture, one.measurement.top1) for architecture, one in known.items()]
        return [known[one] for one, _ in pareto_front(values, lambda one: known[one].cost)]

    @property
    def winners(self) -> dict[int, Candidate]:
        """The winner of each depth."""
        return {one.depth: one for step in self.steps for one in step if one.won}

    @property
    def title(self) -> str:
        """A heading that names searcher and supernet."""
        name, supernet = self.description["searcher"]["name"], self.description["supernet"]
        where = supernet["supernet"] if supernet else "a table"
        return f"{TITLES.get(name, name.capitalize())} search of {where}"


def candidates_of(
    measurements: Sequence[Measurement],
    costs: Callable[[Architecture], Mapping[str, float]],
    text: Callable[[Architecture], str] = lambda architecture: "-".join(map(str, architecture)),
    own: str = "",
) -> list[Candidate]:
    """Return a step's measurements as candidates, the best of each depth marked (the first of equals).

    `costs` gives the costs of an architecture by name, as far as they are known, and `text` its text form.
    `own` is the name of the cost that `Candidate.own` is.
    """
    best: dict[int, Measurement] = {}
    for measurement in sorted(measurements, key=lambda one: -one.top1):
        best.setdefault(sum(measurement.architecture), measurement)
    return [
        Candidate(
            text(one.architecture),
            one,
            one is best[sum(one.architecture)],
            **{name: costs(one.architecture).get(name) for name in ("flops", "params", "bitops")},
            latency=latency_of(costs(one.architecture)),
            own=(own, costs(one.architecture)[own]) if own in costs(one.architecture) else None,
            costs=costs(one.architecture),
        )
        for one in measurements
    ]


def _own_cost(description: Mapping[str, Any]) -> str:
    """Return the cost that a search in a table is bounded in first; "" where reports have it anyway."""
    if description["supernet"] is not None:
        return ""
    searcher = description["searcher"]
    name = searcher.get("cost")
    if name is None and searcher.get("constraint"):
        try:
            name = parse_bounds(searcher["constraint"])[0].cost
        except ValueError:  # it is a function, from Python
            return ""
    return "" if name is None or name in SHOWN_COSTS or name.startswith("latency@") else str(name)


def _read_result(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(result, dict):
        raise _damaged(path, "no JSON object")
    return result


def _damaged(path: Path, what: object) -> ValueError:
    return ValueError(f"{path} is damaged ({what}); delete it and resume the study to write it again")
