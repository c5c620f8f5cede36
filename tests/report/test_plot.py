"""The picture of a search, and which one a study gets."""

import json

import pytest

from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.report.plot import plot_search
from lasfast.report.run import Run
from lasfast.spaces import CellSpace


def test_the_picture_shows_every_winner(directory) -> None:
    svg = plot_search(Run.load(directory), directory / "plot.svg").read_text()
    for text in ("1-2-1", "1-2-2", "group 3", "depth (layers)"):
        assert f"<!-- {text} -->" in svg


def test_without_depths_it_is_the_front(of_choices) -> None:
    svg = plot_search(Run.load(of_choices), of_choices / "plot.svg").read_text()
    assert "<!-- front -->" in svg
    assert "<!-- depth (layers) -->" not in svg


def test_of_cells_it_is_their_edges(tmp_path) -> None:
    space = CellSpace()
    architecture = next(iter(space.enumerate()))
    searcher = {"name": "itnas", "space": space.describe()}
    header = {"searcher": searcher, "supernet": {"supernet": "CellNet"}}
    with Journal.create(tmp_path / "journal.jsonl", header) as journal:
        journal.append(1, [Measurement(architecture, 0.5, 1.0, 1.0, 100)])
    svg = plot_search(Run.load(tmp_path), tmp_path / "plot.svg").read_text()
    for text in ("normal cell", "reduction cell", "ITNAS search of CellNet"):
        assert f"<!-- {text} -->" in svg


def test_nothing_measured_is_no_picture(unmeasured) -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_search(Run.load(unmeasured), unmeasured / "plot.png")


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_the_suffix_says_the_format(directory, suffix: str) -> None:
    (directory / "result.json").write_text(json.dumps({"winners": {}}))
    begins = {"png": b"\x89PNG", "pdf": b"%PDF"}[suffix]
    path = plot_search(Run.load(directory), directory / f"plot.{suffix}")
    assert path.read_bytes().startswith(begins)
