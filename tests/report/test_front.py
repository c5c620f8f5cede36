"""The picture of a search of any space: accuracy against cost, and how the search went."""

import dataclasses

import pytest
from matplotlib.figure import Figure

from lasfast.report.front import draw_front
from lasfast.report.run import Run


@pytest.fixture
def draw():
    """Draws a run and returns the labels of each of the picture's axes."""

    def labels(run: Run) -> list[tuple[str, str]]:
        figure = Figure()
        draw_front(figure, run)
        return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes if axes.get_xlabel()]

    return labels


def test_layernas_is_drawn_layer_by_layer(of_choices, draw) -> None:
    left, right = draw(Run.load(of_choices))
    assert left == ("multiply-adds (M)", "top-1 (%)")
    assert right == ("multiply-adds (M)", "layer searched")


def test_others_are_drawn_step_by_step(of_choices, draw) -> None:
    run = Run.load(of_choices)
    searcher = run.description["searcher"] | {"name": "evolution"}
    run = dataclasses.replace(run, description=run.description | {"searcher": searcher})
    assert draw(run)[1] == ("architectures measured", "top-1 (%)")


def test_quantized_networks_are_drawn_by_bit_operations(of_choices, draw) -> None:
    run = Run.load(of_choices)
    steps = tuple(tuple(dataclasses.replace(one, bitops=5e6) for one in step) for step in run.steps)
    assert draw(dataclasses.replace(run, steps=steps))[0][0] == "bit operations (M)"


def test_without_costs_the_picture_shows_how_it_goes(of_choices, draw) -> None:
    (of_choices / "result.json").unlink()
    assert draw(Run.load(of_choices)) == [("architectures measured", "top-1 (%)")]


def test_the_front_is_a_staircase_of_the_best_for_their_cost(of_choices) -> None:
    figure = Figure()
    draw_front(figure, Run.load(of_choices))
    [front] = [line for line in figure.axes[0].get_lines() if line.get_label() == "front"]
    assert list(front.get_xdata()) == [1, 3, 4]
    assert list(front.get_ydata()) == [60, 65, 70]
