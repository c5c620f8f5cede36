"""The commands of docs/papers.md are taken as they stand there."""

import dataclasses
import random
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from typer.core import TyperGroup

from lasfast import cli, costs
from lasfast.cli import setup
from lasfast.cli.earlier import RunOptions
from lasfast.cli.setup import ImageKind
from lasfast.constraints import BoundedSampler, Constraint, parse_bounds
from lasfast.data.sources import RECIPES
from lasfast.train import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "papers.md").read_text()
COMMANDS = re.findall(r"`(lasfast [^`]+)`", PAGE)


def parse(line: str) -> dict:
    """Return the values of a command's options and arguments."""
    name, *words = shlex.split(line.removesuffix(" ..."))[1:]
    command = typer.main.get_command(cli._app_of(name))
    if isinstance(command, TyperGroup):
        command, words = command.commands[words[0]], words[1:]
    return command.make_context("lasfast", words).params


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_ask_for_what_there_is(line: str) -> None:
    given = parse(line)
    names = {field.name for field in dataclasses.fields(RunOptions)}
    options = RunOptions(**{name: value for name, value in given.items() if name in names})
    assert setup.make_settings(options)
    assert given.get("retrain_preset") in {None, *PRESETS}
    supernet = given.get("supernet", RunOptions.supernet)  # tables have none
    assert supernet in {*setup.FAMILIES, *setup.CHOICE_FAMILIES}
    assert setup._own_arguments(supernet, options) is not None
    assert given.get("data", "digits").partition(":")[0] in RECIPES
    assert given.get("constraint") is None or parse_bounds(given["constraint"])


def test_every_preset_of_a_paper_is_used() -> None:
    used = set(re.findall(r"--(?:retrain-)?preset ([\w-]+)", PAGE))
    assert used >= {name for name in PRESETS if name.partition("-")[0] in ("nir", "spos", "layernas")}
    assert used >= {"darts-search", "darts-retrain", "darts-imagenet"}


def _examples() -> list[str]:
    """The commands with bounds that pages and help show for supernets of lasfast's own."""
    root = Path(__file__).parents[2]
    pages = [page.read_text() for page in (root / "README.md", *sorted((root / "docs").glob("*.md")))]
    group = typer.main.get_command(cli._app_of("search"))
    pages += [command.help for command in group.commands.values()]
    found = [text for page in pages for text in re.findall(r"(lasfast search [^`\n]*(?:\n +--.*)*)", page)]
    lines = [" ".join(text.partition("  #")[0].split()) for text in found]
    others = re.compile(r"--(table|model|weights|latency-table)\b|\.\.\.$")
    return sorted({line for line in lines if "--constraint" in line and not others.search(line)})


@pytest.mark.parametrize("line", _examples())
def test_the_bounds_of_examples_can_be_met(line: str) -> None:
    given = parse(line)
    sizes = {"cifar10": ImageKind(10, 3, (32, 32)), "digits": ImageKind(10, 1, (8, 8))}
    images = sizes.get(given["data"], ImageKind(1000, 3, (224, 224)))
    names = {field.name for field in dataclasses.fields(RunOptions)}
    options = RunOptions(**{name: value for name, value in given.items() if name in names})
    with torch.device("meta"):
        supernet = setup.make_any_supernet(options, images, depth=9, size=options, seed=0)
    known = costs.functions(supernet, images.image_size)
    admits = Constraint(given["constraint"], known, supernet.space.largest())
    limits = [(bound, known[bound.cost]) for bound in admits.bounds]
    assert BoundedSampler(supernet.space, limits).draw(random.Random(0)) is not None
