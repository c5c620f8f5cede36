"""The picture that compares searchers in tables."""

import pytest

from lasfast.report.regret import plot_regret

POINTS = [(1, None, None), (10, 0.5, 0.1), (100, 0.1, 0.0)]


def test_regret_is_drawn_for_each_problem_and_searcher(tmp_path) -> None:
    panels = {"40 %": {"random": POINTS, "ours": POINTS[1:]}, "60 %": {"random": POINTS, "ours": POINTS}}
    svg = plot_regret(panels, tmp_path / "plot.svg").read_text()
    for text in ("40 %", "60 %", "random", "ours", "architectures measured"):
        assert f"<!-- {text} -->" in svg


def test_points_before_all_seeds_found_something_are_left_out(tmp_path) -> None:
    with_unknown = plot_regret({"": {"random": POINTS}}, tmp_path / "a.png").read_bytes()
    assert plot_regret({"": {"random": POINTS[1:]}}, tmp_path / "b.png").read_bytes() == with_unknown


def test_no_panels_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="panels must be at least one"):
        plot_regret({}, tmp_path / "nothing.svg")
