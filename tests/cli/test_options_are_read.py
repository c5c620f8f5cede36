"""Each option of a command is read by some run of it: no command offers an option that does nothing there."""

import dataclasses
import sys
from collections import defaultdict
from importlib import import_module

import pytest

from lasfast import cli
from lasfast.cli.choices import ChoiceSearchOptions
from lasfast.cli.options import names_of

FEW = ["--limit", 60, "--validation", 60, "--threads", 1]
IMAGES = [*FEW, "--calibration", 30]
STEPS = ["--warm-up-epochs", 1, "--epochs", 1]
CHOICES = ["--supernet", "mobilenet-60m", "--width", 0.25, "--epochs", 1, "--baselines", 0]
RESNET = "timm:test_resnet"
MODEL = ["--model", RESNET, "--adapt-epochs", 1, "--baselines", 0]
NONE = ["--constraint", "flops<=0"]
LAYERS = ["--supernet", "plain", "--max-layers", 2, "--seconds", 0]
TABLE = ["--table", "table.csv", "--evaluations", 2]
RUNS = {
    "search evolution": [
        [*CHOICES, "--evaluations", 2, *IMAGES],
        ["--supernet", "residual", *NONE, *FEW],
        [*MODEL, *NONE, *FEW],
        TABLE,
    ],
    "search random": [
        ["--depth", 3, "--samples", 1, *STEPS, *IMAGES],
        [*CHOICES, *NONE, *FEW],
        [*MODEL, *NONE, *FEW],
        TABLE,
    ],
    "search nir": [["--depth", 4, *STEPS, *IMAGES], [*TABLE, "--depth", 4], [*MODEL, "--depth", 99, *FEW]],
    "search itnas": [["--cells", 3, "--cell-channels", 4, "--epochs", 1, *IMAGES]],
    "search auto": [TABLE],
    "search layernas": [[*TABLE, "--constraint", "flops<=9"]],
    "search local": [TABLE],
    "search pareto": [[*TABLE, "--initial", 1, "--constraint", "flops>=0"]],
    "search predictor": [[*TABLE, "--initial", 2]],
    "search regularized": [[*TABLE, "--population", 2]],
    "train": [["2-1-1", "--epochs", 1, *FEW], ["no", "--supernet", "cells", *FEW]],
    "dataset": [["--depths", 3, "--epochs", 1, *FEW]],
    "latency build": [[*LAYERS], ["--supernet", "cells", "--backend", "no"]],
    "latency check": [[*LAYERS, "--architectures", 4, "--fitted", 2], ["--supernet", "cells"]],
    "spaces": [[], ["macro"]],
    "info": [
        [],
        ["--prefix-tree", "1-1-1"],
        ["--prefix-tree", "no", "--supernet", "cells"],
        ["--model", RESNET],
    ],
}
"""By the words of each command its smallest runs, one for each kind. Some end in an error, late enough."""
SHARED = {"search auto", "search layernas", "search local", "search pareto", "search predictor"}
SHARED |= {"search regularized"}
"""The searches whose options are those of evolution but for a few."""
ELSEWHERE = {"search nir": {"baselines"}}
"""Options that a further run would read, which another test has: a search of a --model to its end."""
PASSED_ON = {"refuse", "adopt", "__post_init__"}
"""Functions that go through all options, and do nothing by them."""


@pytest.fixture
def read(monkeypatch):
    """The names of the options that are read, by the class of the options."""
    found = defaultdict(set)

    def reading(self, name):
        caller = sys._getframe(1).f_code
        if caller.co_filename != dataclasses.__file__ and caller.co_name not in PASSED_ON:
            found[type(self)].add(name)
        return object.__getattribute__(self, name)

    for name in {module for module, _ in cli.COMMANDS.values()} | {"choices", "itnas", "options"}:
        for one in vars(import_module(f"lasfast.cli.{name}")).values():
            if isinstance(one, type) and dataclasses.is_dataclass(one) and one.__name__.endswith("Options"):
                monkeypatch.setattr(one, "__getattribute__", reading, raising=False)
    return found


@pytest.mark.parametrize("command", RUNS)
def test_each_option_is_read(read, lasfast, without_exports, monkeypatch, tmp_path, command) -> None:
    without_exports()
    monkeypatch.chdir(tmp_path)
    rows = [f"{a}-{b},{0.5 + a / 9 + b / 99},{a + b}" for a in (1, 2, 3) for b in (1, 2, 3)]
    (tmp_path / "table.csv").write_text("\n".join(["arch,mean_acc,flops", *rows]) + "\n")
    if command == "latency check":
        assert lasfast("latency", "build", *LAYERS)[0] == 0
        read.clear()
    written = command.startswith("search") or command in ("train", "dataset")
    for number, words in enumerate(RUNS[command]):
        lasfast(*command.split(), *words, *(["-o", tmp_path / str(number)] if written else []))
    options = max(read, key=lambda kind: len(dataclasses.fields(kind)))
    names = names_of(options) - (names_of(ChoiceSearchOptions) if command in SHARED else set())
    assert sorted(names - read[options] - ELSEWHERE.get(command, set())) == []
