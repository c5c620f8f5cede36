"""Architectures as commands are given them: whole, or by the names that a run has for them."""

from __future__ import annotations

import re
from pathlib import Path

from lasfast.report import Run
from lasfast.spaces import Architecture, SearchSpace
from lasfast.spaces.names import is_short_name

BEST, HIGHEST = "best", "highest"
RANK = re.compile(r"rank([1-9][0-9]*)")
NAMES = "2-4-6 or choices whole, or of a RUN: best, highest, rank3 (the third in accuracy), or net-..."
"""The help of an argument that `parse_architecture` reads."""


def parse_architecture(text: str, space: SearchSpace, directory: Path | None) -> Architecture:
    """Return the architecture that a text or a name means.

    Args:
        text: the text form; or, of what a run has measured, `best`, `highest` (in accuracy), `rank` and a
            number (in accuracy), or a short name.
        space: reads the text form.
        directory: that of the run; None where there is none.

    Raises:
        ValueError: the text is malformed, or the run has nothing of that name.
    """
    rank = RANK.fullmatch(text)
    if not (rank or is_short_name(text) or text in (BEST, HIGHEST)):
        return space.parse(text)
    if directory is None:
        raise ValueError(f"ARCHITECTURE must be whole where no run says what it means, got {text!r}")
    run = Run.load(directory)
    if text == BEST:
        if run.best is None:
            raise ValueError(
                f"{text!r} is not known yet: {directory} has not finished; take 'highest' or a name"
            )
        return run.best.measurement.architecture
    ranked = run.ranked
    if text == HIGHEST and run.highest is not None:
        return run.highest.measurement.architecture
    if is_short_name(text):
        named = [one for one in ranked if one.name == text]
        if len(named) != 1:
            raise ValueError(
                f"{len(named) or 'none'} of the {len(ranked)} architectures in {directory} is named {text}"
            )
        return named[0].measurement.architecture
    place = int(rank[1]) if rank else 1
    if place > len(ranked):
        raise ValueError(f"{text!r} is not there: {directory} has measured {len(ranked)} architectures")
    return ranked[place - 1].measurement.architecture
