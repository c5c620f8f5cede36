"""Read what a study left on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasfast.journal import Journal
from lasfast.measurement import Measurement
from lasfast.spaces import Architecture
from lasfast.study import JOURNAL, RESULT


@dataclass(frozen=True)
class Candidate:
    """One measured architecture of a step, as a report shows it. FLOPs and params where they are known."""

    text: str
    measurement: Measurement
    won: bool
    flops: int | None = None
    params: int | None = None

    @property
    def depth(self) -> int:
        """Layers in all."""
        return sum(self.measurement.architecture)


@dataclass(frozen=True)
class Run:
    """A study's description and its measurements, step by step, in the order they were asked."""

    directory: Path
    description: dict[str, Any]
    steps: tuple[tuple[Candidate, ...], ...]
    finished: bool

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Run:
        """Read a study's directory; it may still be running.

        Raises:
            FileNotFoundError: there is no study in `directory`.
            JournalError, ValueError: a damaged file; the text names it.
        """
        directory = Path(directory)
        journal = directory / JOURNAL
        if not journal.exists():
            raise FileNotFoundError(f"{directory} holds no study: there is no {journal}")
        description, entries = Journal.read(journal)
        result = _read_result(directory / RESULT)
        steps: dict[int, list[Measurement]] = {}
        for step, measurement in entries:
            steps.setdefault(step, []).append(measurement)
        costs = {
            tuple(winner["architecture"]): (winner["flops"], winner["params"])
            for winner in result.get("winners", {}).values()
        }
        return cls(
            directory,
            description,
            tuple(
                tuple(candidates_of(step, lambda architecture: costs.get(architecture, (None, None))))
                for _, step in sorted(steps.items())
            ),
            bool(result),
        )

    @property
    def winners(self) -> dict[int, Candidate]:
        """The winner of each depth."""
        return {one.depth: one for step in self.steps for one in step if one.won}

    @property
    def title(self) -> str:
        """Searcher and supernet, for headings."""
        name, supernet = self.description["searcher"]["name"], self.description["supernet"]["supernet"]
        return f"{name.upper() if name == 'nir' else name.capitalize()} search of {supernet}"


def candidates_of(
    measurements: Sequence[Measurement], costs: Callable[[Architecture], tuple[int | None, int | None]]
) -> list[Candidate]:
    """Return a step's measurements as candidates, the best of each depth marked (the first of equals).

    `costs` gives (FLOPs, params) of an architecture.
    """
    best: dict[int, Measurement] = {}
    for measurement in sorted(measurements, key=lambda one: -one.top1):
        best.setdefault(sum(measurement.architecture), measurement)
    return [
        Candidate(
            "-".join(map(str, one.architecture)),
            one,
            one is best[sum(one.architecture)],
            *costs(one.architecture),
        )
        for one in measurements
    ]


def _read_result(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        result = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and resume the study to write it again"
        ) from error
    if not isinstance(result, dict):
        raise ValueError(
            f"{path} is damaged (no JSON object); delete it and resume the study to write it again"
        )
    return result
