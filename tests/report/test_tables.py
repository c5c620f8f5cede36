"""The tables of candidates and winners."""

import dataclasses
import json

from lasfast.report.run import Run
from lasfast.report.tables import choice_text, front_table, make_table, ranking_table, winners_table


def test_the_ranking_has_the_best_first(directory, text_of) -> None:
    lines = text_of(ranking_table("step 1", Run.load(directory).steps[0])).splitlines()
    rows = [line for line in lines if "±" in line]
    assert [row.split()[:2] for row in rows] == [["1", "1-2-1"], ["2", "2-1-1"], ["3", "1-1-2"]]
    assert "60.0 ± 4.9 %" in rows[0]


def test_winners_have_their_costs_where_these_are_known(directory, text_of) -> None:
    winner = {"architecture": [1, 2, 2], "flops": 2_000_000, "params": 270_000}
    (directory / "result.json").write_text(json.dumps({"winners": {"5": winner}}))
    text = text_of(winners_table("winners", Run.load(directory).winners.values()))
    [without] = [line for line in text.splitlines() if "1-2-1" in line]
    [known] = [line for line in text.splitlines() if "1-2-2" in line]
    assert known.split()[-3:] == ["2.0", "0.27", "M"]
    assert without.split()[-1] == "%"


def test_a_front_is_in_the_order_of_its_costs(of_choices, text_of) -> None:
    text = text_of(front_table("front", Run.load(of_choices).front))
    rows = [line.split() for line in text.splitlines() if "±" in line]
    assert [row[0] for row in rows] == ["opt0-0", "opt1-0", "opt1-1"]
    assert [row[5] for row in rows] == ["1.0", "3.0", "4.0"]
    assert "Mbitops" not in text


def test_a_front_of_quantized_networks_has_bit_operations(of_choices, text_of) -> None:
    front = [dataclasses.replace(one, bitops=64e6) for one in Run.load(of_choices).front]
    text = text_of(front_table("front", front))
    assert "Mbitops" in text
    assert text.count("64.0") == 3


def test_long_architectures_take_several_lines(text_of) -> None:
    table = make_table("title", "architecture", "top-1")
    table.add_row("-".join(["option"] * 20), "50 %")
    title, _, _, _, *lines = text_of(table).splitlines()
    assert title.strip() == "title"
    assert "".join(line.split()[0] for line in lines if line.strip()) == "-".join(["option"] * 20)
    assert lines[0].split()[1:] == ["50", "%"]


def test_a_cheaper_best_is_explained_in_words(of_choices) -> None:
    run = Run.load(of_choices)
    assert choice_text(run) == ""  # an older result does not say which was the highest
    highest = next(one for step in run.steps for one in step if one.text == "opt1-1")
    assert choice_text(dataclasses.replace(run, highest=highest)) == ""  # by more than a standard error
    few = dataclasses.replace(highest, measurement=dataclasses.replace(highest.measurement, images=20))
    assert choice_text(dataclasses.replace(run, highest=few)) == (
        "The best was chosen by its cost, too: of 20 validation images, one standard error is 10.2 points, "
        "and the cheapest within it wins. The fewer the images, the cheaper it may be, and the worse. The "
        "highest is 70.0 ± 10.2 %, of opt1-1 for 1.3 times the cost: `highest` names it in commands, and "
        "`result.highest` in Python."
    )
    assert choice_text(dataclasses.replace(run, best=highest, highest=highest)) == ""
