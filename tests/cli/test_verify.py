"""What `lasfast verify` takes for the same comparison."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from lasfast.cli.context import Replay
from lasfast.cli.verify import _compare_again, _is_rounding
from lasfast.study.comparison import INHERITED, ITSELF, RANDOM, WHOLE, Baseline, Comparison, verdict_of


def comparison(top1: float = 0.8, measured: int = 20) -> dict:
    """Return the comparison of a winner with the whole network and with seven random ones, as JSON values."""

    def baseline(kind: str, own: float, better: int) -> Baseline:
        texts = ("0-0",) if kind == WHOLE else ("0-1", "1-0")
        found = Baseline(kind, texts, (9.0, 10.0), own, 0.01, 0.0, better, top1 - own, 0.02, True, ITSELF)
        return dataclasses.replace(found, verdict=verdict_of(found, measured, INHERITED))

    baselines = baseline(WHOLE, 0.81, 1), baseline(RANDOM, 0.7, 0)
    return json.loads(json.dumps(Comparison("flops", "1-1", 9.5, top1, 0.01, measured, baselines).to_json()))


def test_rounding_changes_accuracies_a_little() -> None:
    found = comparison(0.805)
    assert _is_rounding(found, comparison())
    assert not _is_rounding(comparison(0.85), comparison())


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["0-1"]},
        {"costs": [9.0, 11.0]},
        {"kind": WHOLE},
        {"lead": 0.09},
        {"lead_error": 0.2},
        {"verdict": "worse"},
        {"verdict": ITSELF},
        {"more": 1},
    ],
)
def test_what_does_not_fit_together_is_no_rounding(change: dict) -> None:
    found = copy.deepcopy(comparison())
    found["baselines"][1] |= change
    assert not _is_rounding(found, comparison())
    del found["baselines"][1]
    assert not _is_rounding(found, comparison())


def test_what_cannot_be_compared_again_is_said() -> None:
    path, found = Path("result.json"), comparison()
    assert "no command made the run" in _compare_again(path, found, None, None, False)
    trained = Replay(None, None, baselines=3)  # type: ignore[arg-type]
    assert "would have to be trained again" in _compare_again(path, found, trained, None, False)
    asked_for_none = Replay(None, None, baselines=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"result\.json must have no comparison"):
        _compare_again(path, found, asked_for_none, None, False)
