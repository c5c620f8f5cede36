"""The tables of candidates and winners."""

import dataclasses
import json

from lasfast.report.run import Run
from lasfast.report.tables import (
    choice_text,
    comparison_text,
    front_table,
    make_table,
    ranking_table,
    winners_table,
)
from lasfast.study.comparison import (
    AHEAD,
    BEHIND,
    BETTER,
    EVEN,
    FAVORED,
    INHERITED,
    ITSELF,
    RANDOM,
    SCRATCH,
    UNSURE,
    Baseline,
    Comparison,
)


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


def compared(weights: str, *others: Baseline, measured: int = 1, left: int | None = None) -> str:
    """The sentences of a comparison of a winner of depth 9."""
    return comparison_text(Comparison("depth", "5-3-1", 9, 0.9, 0.01, measured, others, weights, left))


def beside(kind: str, lead: float, verdict: str, *names: str, better: int = 0, level: int = 0) -> Baseline:
    return Baseline(
        kind, names or ("3-3-3",), (9, 9), 0.9 - lead, 0.01, 0.0, better, lead, 0.007, True, verdict, level
    )


def test_inherited_weights_are_said_to_favor_the_winner_where_they_do() -> None:
    random = beside(RANDOM, 0.1, AHEAD, *map(str, range(20)))
    fair, favored = (compared(weights, random, measured=18, left=27) for weights in (INHERITED, FAVORED))
    assert "The winner is the best of 18 on these, so it counts as better only from 3.0 standard" in fair
    assert "trained for the candidates" not in fair
    assert favored.startswith(fair)
    assert favored.splitlines()[-1] == (
        "What would help: `--retrain --retrain-random 19` trains random ones and the winner from scratch."
    )
    few = compared(FAVORED, random, left=5).splitlines()[-1]
    assert "`--retrain --retrain-random 5` trains all others of depth 9 and the winner" in few
    assert "What would help" not in compared(FAVORED, left=0)


def test_networks_from_scratch_are_compared_in_words() -> None:
    even = beside(EVEN, -0.011, UNSURE)
    assert compared(SCRATCH, even).splitlines() == [
        "5-3-1 is not distinguishable from 3-3-3, the even one (difference -1.1 ± 0.7 points).",
        "Each was trained once. Another training would give other accuracies, which these errors do not "
        "count.",
        "What would help: `--retrain-random 19` trains random ones, too, and says how probably one of them "
        "would do as well.",
    ]
    words = {
        AHEAD: "is ahead of 3-3-3, the even",
        BEHIND: "is behind 3-3-3, the",
        ITSELF: "is the even one itself.",
    }
    for verdict, text in words.items():
        assert text in compared(SCRATCH, beside(EVEN, 0.1, verdict))
    three = beside(RANDOM, 0.01, UNSURE, "a", "b", "c", better=1, level=1)
    text = compared(SCRATCH, even, three)
    assert "5-3-1 is better than 1 of 3 random ones, as good as 1, and worse than 1." in text
    assert "it would do as well with a probability of 75 %; up to 5 %, it counts as better" in text
    assert "`--retrain-random 39` trains random ones." in compared(SCRATCH, three, measured=2)
    assert "`--retrain-random 5` trains all others" in compared(SCRATCH, three, left=5)
    assert "There are no others, and these are too few" in compared(SCRATCH, three, left=3)
    enough = beside(RANDOM, 0.1, BETTER, *map(str, range(19)))
    assert compared(SCRATCH, enough).endswith("That holds whatever the noise of training.")
