"""LayerNAS as the paper runs it: candidates trained from scratch, defaults and buckets of one's own."""

import json

import pytest

from lasfast.measurements.journal import Journal
from lasfast.spaces.names import short_name
from lasfast.study.architecture_table import load_table

TINY = ["--supernet", "mobilenet-60m", "--width", 0.25, "--limit", 60, "--validation", 60]
TINY += ["--calibration", 30, "--constraint", "flops<=600k", "--threads", 1]
LAYERNAS = ["search", "layernas", *TINY, "--buckets", 4, "--replicas", 1]


def test_candidates_are_trained_from_scratch(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    arguments = [*LAYERNAS, "--standalone", "--standalone-epochs", 1, "--evaluations", 3, "-o", tmp_path]
    arguments += ["--operators", "torch"]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    assert "epoch 1/1  loss" in out
    header, entries = Journal.read(tmp_path / "journal.jsonl")
    assert header["trainer"] is None
    assert header["evaluator"]["standalone"]["standalone_epochs"] == 1
    best = json.loads((tmp_path / "result.json").read_text())["best"]
    assert len(entries) == 3
    # The best is trained again, to the same bits, since no candidate is kept; there is no baseline.
    [row] = load_table(tmp_path / "scratch")
    assert (row.architecture, row.top1) == (tuple(best["architecture"]), best["top1"])
    assert f"best: {short_name(best['text'])}  top-1 {100 * best['top1']:.1f} ±" in out
    assert "inherited" not in out.partition("best: ")[2]
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert "trained from scratch, has none" in lasfast("evaluate", best["text"], "--run", tmp_path)[2]
    before = (tmp_path / "journal.jsonl").read_bytes()
    status, out, err = lasfast("verify", tmp_path, "--threads", 1)
    assert status == 0, err
    assert "3 measurements read; the search by them is the same" in out
    assert lasfast(*arguments, "--resume")[0] == 0
    assert (tmp_path / "journal.jsonl").read_bytes() == before


FUNCTIONS = """
def last(architecture):
    return architecture[-1]

nothing = 3
"""


def test_defaults_and_buckets_are_given(lasfast, without_exports, tmp_path) -> None:
    """By them, the first step asks for all options of the first layer, in front of the default's."""
    without_exports()
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    table = tmp_path / "table.csv"
    rows = [
        f"{a}-{b}-{c},0.{a + 3 * b + 5 * c + 10},{a + b + c}" for a in (0, 1) for b in (0, 1) for c in (0, 1)
    ]
    table.write_text("\n".join(["arch,mean_acc,flops", *rows]) + "\n")
    arguments = [
        "search",
        "layernas",
        "--table",
        table,
        "--cost-columns",
        "flops",
        "--constraint",
        "flops<=2",
    ]
    arguments += ["--default", "1-0-1", "--phi", f"{tmp_path / 'mine.py'}:last", "-o", tmp_path / "run"]
    status, _, err = lasfast(*arguments)
    assert status == 0, err
    header, entries = Journal.read(tmp_path / "run" / "journal.jsonl")
    assert header["searcher"]["default"] == [1, 0, 1]
    assert "last" in header["searcher"]["phi"]
    assert {one.architecture for step, one in entries if step == 1} == {(0, 0, 1), (1, 0, 1)}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--standalone", "--sampling", "sandwich"],
            "--sampling sandwich trains a supernet, and --standalone",
        ),
        (["--standalone", "--supernet-epochs", 2], "--supernet-epochs 2 trains a supernet, and --standalone"),
        (["--default", "k3"], "'k3'"),
        (["--phi", "mine.py"], "--phi must be FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, got 'mine.py'"),
        (["--phi", "lasfast:nothing"], "--phi lasfast:nothing: lasfast has no function 'nothing'"),
    ],
)
def test_what_does_not_fit_is_named(lasfast, tmp_path, arguments, text) -> None:
    status, _, err = lasfast(*LAYERNAS, *arguments, "-o", tmp_path / "run")
    assert status == 2
    assert text in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("family", "arguments", "text"),
    [
        (
            "proxyless",
            ["--squeeze-excite"],
            "--squeeze-excite is of --supernet mobilenet-60m, mobilenet-220m",
        ),
        ("proxyless", ["--blocks", "5x5"], "--blocks is of --supernet shufflenet-v2-channels alone"),
        ("mobilenet-60m", ["--activation", "gelu"], "--activation must be one of 'relu', 'relu6'"),
        ("shufflenet-v2-channels", ["--blocks", "9x9"], "--blocks must be one of '3x3', '5x5'"),
        ("shufflenet-v2-channels", ["--blocks", "3x3-5x5"], "--blocks must be one kind, or those of all 20"),
    ],
)
def test_parts_of_other_supernets_are_refused(lasfast, family, arguments, text) -> None:
    status, _, err = lasfast("spaces", family, *arguments)
    assert status == 2
    assert text in err


def test_parts_of_supernets_are_chosen(lasfast) -> None:
    """As the papers' figures have them: SE for LayerNAS' 220M, the blocks found before channels."""
    large = ["--image-size", 224, "--num-classes", 1001]
    assert "published as layernas, 228.9 MFLOPs" in lasfast("spaces", "mobilenet-220m", *large)[1]
    status, out, _ = lasfast("spaces", "mobilenet-220m", *large, "--squeeze-excite", "--activation", "swish")
    assert status == 0
    assert "published as layernas, 229.9 MFLOPs" in out
    channels = ["spaces", "shufflenet-v2-channels", *large]
    found = "-".join(["xception", "7x7"] * 10)
    outputs = {
        lasfast(*channels, *blocks)[1] for blocks in ([], ["--blocks", "xception"], ["--blocks", found])
    }
    assert len(outputs) == 3


def test_channels_are_searched_in_the_blocks_that_a_search_found(lasfast, tmp_path) -> None:
    """The configuration keeps these blocks, so that nothing depends on the first search any more."""
    run = tmp_path / "blocks"
    run.mkdir()
    found = "-".join(["xception", "7x7"] * 10)
    (run / "config.json").write_text('{"supernet": "shufflenet-v2"}')
    channels = ["spaces", "shufflenet-v2-channels", "--image-size", 64]
    status, _, err = lasfast(*channels, "--blocks", run)
    assert status
    assert f"--blocks {run} has not ended: --resume it first" in err
    (run / "result.json").write_text(json.dumps({"best": {"text": found}}))
    assert lasfast(*channels, "--blocks", run) == lasfast(*channels, "--blocks", found)
    for name, content, text in (
        ("result.json", "{}", "is damaged (KeyError('best')"),
        ("config.json", '{"supernet": "proxyless"}', "must be a search of --supernet shufflenet-v2, got"),
        ("config.json", "3", "no JSON object"),
    ):
        (run / name).write_text(content)
        status, _, err = lasfast(*channels, "--blocks", run)
        assert status
        assert text in " ".join(err.split())
    (run / "config.json").unlink()
    assert "holds no run" in lasfast(*channels, "--blocks", run)[2]


@pytest.mark.slow
def test_blocks_then_channels(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    search = ["search", "random", "--width", 0.25, "--limit", 60, "--validation", 60, "--calibration", 30]
    search += [
        "--supernet-epochs",
        1,
        "--samples",
        2,
        "--baselines",
        0,
        "--operators",
        "torch",
        "--threads",
        1,
    ]
    status, _, err = lasfast(*search, "--supernet", "shufflenet-v2", "-o", tmp_path / "blocks")
    assert status == 0, err
    channels = [*search, "--supernet", "shufflenet-v2-channels", "--blocks", tmp_path / "blocks"]
    status, _, err = lasfast(*channels, "-o", tmp_path / "channels")
    assert status == 0, err
    best = json.loads((tmp_path / "blocks" / "result.json").read_text())["best"]["text"]
    assert json.loads((tmp_path / "channels" / "config.json").read_text())["blocks"] == best
    journal = (tmp_path / "channels" / "journal.jsonl").read_bytes()
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    status, _, err = lasfast(*channels[:-1], best, "-o", tmp_path / "again")
    assert status == 0, err
    assert (tmp_path / "again" / "journal.jsonl").read_bytes() == journal
