"""ITNAS, and other searches of a stack of cells, on the command line."""

import json
import re

import pytest
import torch

from lasfast import cli
from lasfast.spaces import CellSpace
from lasfast.spaces.names import short_name
from lasfast.study.architecture_table import load_table
from lasfast.train import checkpoint

SPACE = CellSpace(2)
CELLS = ["--cells", 3, "--cell-channels", 4, "--cell-nodes", 2]
IMAGES = ["--limit", 120, "--validation", 60, "--threads", 1]
TINY = [*CELLS, *IMAGES, "--calibration", 60]
TEXT = "sep3.0+skip.1-dil3.0+avg3.2--max3.0+skip.1-skip.0+sep5.1"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search whose cells were trained in a larger network."""
    directory = tmp_path_factory.mktemp("itnas")
    arguments = ["search", "itnas", *TINY, "--supernet-epochs", 2, "-o", directory]
    arguments += ["--retrain", "--standalone-epochs", 1, "--retrain-cells", 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lasfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return directory, arguments


def test_cells_are_searched_and_trained_from_scratch(searched) -> None:
    directory, _ = searched
    best = json.loads((directory / "result.json").read_text())["best"]
    architecture = SPACE.parse(best["text"])
    rows = load_table(directory / "scratch")
    assert [row.architecture for row in rows].count(architecture) == 1
    assert len(rows) == 2  # a random one besides
    assert min(row.params for row in rows) > best["params"]  # a cell more than was searched
    (network,) = directory.glob("*.pt2")
    assert torch.export.load(network).module()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)
    tensors, values = checkpoint.load(directory / "checkpoint.safetensors")
    assert values["study"]["trainer"]["itnas"]["temperature"] == [10.0, 0.5]
    assert {name for name in tensors if name.startswith("architecture.normal.")} == {
        "architecture.normal.free",
        "architecture.normal.transitions.2-3",
        "architecture.normal.attention.2-3",
    }


def test_a_finished_search_is_shown_again(searched, lasfast) -> None:
    directory, arguments = searched
    before = {
        path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".json", ".jsonl")
    }
    assert "resume it" in lasfast(*arguments)[2]
    status, out, err = lasfast(*arguments, "--resume")
    assert status == 0, err
    text = json.loads(before["result.json"])["best"]["text"]
    assert f"best: {short_name(text)}" in out.replace("\n", "")
    for name, content in before.items():
        assert name == "log.jsonl" or (directory / name).read_bytes() == content
    status, out, err = lasfast("evaluate", text, "--run", directory, "--threads", 1)
    assert status == 0, err
    top1 = 100 * json.loads(before["result.json"])["best"]["top1"]
    assert f"{top1:.1f} ±" in out


def test_a_report_shows_the_cells(searched, lasfast, tmp_path) -> None:
    directory, _ = searched
    status, out, err = lasfast("report", directory, "--plot", tmp_path / "cells.svg")
    assert status == 0, err
    text = json.loads((directory / "result.json").read_text())["best"]["text"]
    assert "ITNAS search of CellNet: what pruning left" in out
    assert SPACE.genotype(SPACE.parse(text)) in out
    first = SPACE.cells(SPACE.parse(text))[0][0][0]
    assert re.search(rf"2 +{first.operation}\(0\) \+ ", out)
    assert "<svg" in (tmp_path / "cells.svg").read_text()


def test_a_report_of_a_training_shows_what_it_has_learned_so_far(searched, lasfast, tmp_path) -> None:
    directory, _ = searched
    header = (directory / "journal.jsonl").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / "journal.jsonl").write_bytes(header)
    status, out, err = lasfast("report", tmp_path)
    assert status == 0, err
    assert "nothing was saved yet" in out
    (tmp_path / "checkpoint.safetensors").write_bytes((directory / "checkpoint.safetensors").read_bytes())
    status, out, err = lasfast("report", tmp_path)
    assert status == 0, err
    assert "epoch 2.0 of 2 (not finished), pruned now" in out
    assert json.loads((directory / "result.json").read_text())["best"]["text"] in out


def test_darts_is_what_is_left_without_all_that_is_new(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    arguments = ["--no-transition", "--no-gumbel", "--none", "--pruning", "hard", "--preset", "darts"]
    arguments += ["--supernet-epochs", 1, "--quiet"]
    status, out, err = lasfast("search", "itnas", *TINY, *arguments, "-o", tmp_path)
    assert status == 0, err
    assert out.startswith("best: ")
    tensors, _ = checkpoint.load(tmp_path / "checkpoint.safetensors")
    shapes = {name: tuple(one.shape) for name, one in tensors.items() if name.startswith("architecture.")}
    assert shapes == {"architecture.normal.free": (5, 8), "architecture.reduction.free": (5, 8)}


def test_other_searches_find_cells(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    arguments = ["--supernet", "cells", *TINY, "--supernet-epochs", 1, "--constraint", "params<=8k"]
    arguments += ["--population", 4, "--generations", 1, "--top", 2, "-o", tmp_path]
    status, out, err = lasfast("search", "evolution", *arguments)
    assert status == 0, err
    best = json.loads((tmp_path / "result.json").read_text())["best"]
    assert best["params"] <= 8000
    assert "Genotype(normal=" in out


def test_cells_are_trained_from_their_text(lasfast, tmp_path) -> None:
    arguments = ["--supernet", "cells", *CELLS, *IMAGES, "--standalone-epochs", 1, "-o", tmp_path]
    status, out, err = lasfast("train", TEXT, *arguments)
    assert status == 0, err
    assert f"training CellNet {short_name(TEXT)} from scratch" in out


def test_plans_and_spaces_of_cells_are_shown(lasfast) -> None:
    status, out, err = lasfast("spaces", "cells", "--cells", 3, "--cell-channels", 4)
    assert status == 0, err
    assert "published as darts-v2" in out
    sizes = ["--supernet", "cells", "--cells", 3, "--cell-channels", 4, "--cell-nodes", 2]
    status, out, err = lasfast("info", "--plan", f"{TEXT},{TEXT}", *sizes)
    assert status == 0, err
    assert re.search(r"layers +10 in all, 5 to run", out)
    assert "stack.0 (Conv2d 3.0.dil_conv_3x3.depthwise), stack.1 (Pad), stack.2 (Pad)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--supernet", "residual"], "--supernet must be cells for ITNAS, got 'residual'"),
        (["--constraint", "flops<=1M"], "ITNAS knows no costs"),
        (["--temperature", "10"], "--temperature must be two numbers such as 10,0.1, got '10'"),
        (["--temperature", "1,2"], "temperature must be at least 2.0, got 1.0"),
        (["--pruning", "soft"], "pruning must be one of 'iterative', 'hard'"),
        (["--cells", "2"], "cells must be at least 3"),
        (["--retrain-cells", "20"], "are of --retrain: give that, too"),
        (["--architecture-learning-rate", "0"], "--architecture-learning-rate must be above 0, got 0.0"),
    ],
)
def test_mistakes_are_named_before_training(lasfast, tmp_path, arguments, message: str) -> None:
    status, _, err = lasfast("search", "itnas", *TINY, *arguments, "-o", tmp_path / "run")
    assert status == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_sizes_of_cells_are_for_cells(lasfast, tmp_path) -> None:
    status, _, err = lasfast("search", "evolution", *TINY, "-o", tmp_path / "run")
    assert status == 2
    assert "--cells is of --supernet cells alone; leave it out for proxyless" in err
    status, _, err = lasfast("latency", "build", "--supernet", "cells", "--table", tmp_path / "t.json")
    assert status == 2
    assert "whole cells, of which there are too many to time" in err
