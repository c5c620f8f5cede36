"""Compares many random networks, and minimises those that fail."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from tests.execution.random_networks.cases import JUDGES, Case, random_case
from tests.execution.random_networks.comparison import CHECKS, compare
from tests.execution.random_networks.near import autocasts
from tests.execution.random_networks.programs import Program

# Our own kernels are compared, whether or not they are fastest, and nothing is written to the home directory.
os.environ.setdefault("LASFAST_CHOICE", "native")

ATTEMPTS, ATTEMPTS_OF_FEW_DIGITS = 3, 8
"""Weights that must all fail: one set may lie at a kink, or at a maximum of equal values.

Where values have few digits, some lie there in every third network. With each of them the errors of all
`JUDGES` are allowed. Ours may run in channels_last where images and weights are contiguous: there PyTorch's
batch norm is less exact on channels that are nearly constant, and the bf16 gradients of some of its strided
convolutions are wrong on images of one pixel. Noise shows what no computation with so many digits can know,
such as the gradient of a bias ahead of two norms of a constant channel.
"""


def failures(
    case: Case, checks: tuple[str, ...] = CHECKS, outcomes: Counter[str] | None = None
) -> dict[str, str]:
    """Return what fails with every one of several weights, by check."""
    found: dict[str, str] = {}
    left = checks
    has_few_digits = autocasts(case) or case.dtype in ("float16", "bfloat16")
    for attempt in range(ATTEMPTS_OF_FEW_DIGITS if has_few_digits else ATTEMPTS):
        seed = case.seed + attempt * 1_000_003
        report = compare(case, seed, left)
        if outcomes is not None and attempt == 0:
            outcomes.update(report.outcomes)
        found = report.failures
        for judge in JUDGES[1:]:
            if found:
                other = compare(replace(case, judge=judge), seed, tuple(found))
                still = other.failures.keys() | other.torch_failures.keys()
                found = {check: text for check, text in found.items() if check in still}
        left = tuple(found)
        if not left:
            break
    return found


def minimised(case: Case, check: str, text: str, tries: int = 400) -> Case:
    """Return the smallest case found, by so many tries, that fails in the same way."""
    kind = _kind(text)
    smaller = True
    while smaller:
        smaller = False
        for candidate in _simpler(case):
            tries -= 1
            if tries < 0:
                return case
            found = failures(candidate, (check,)).get(check)
            if found is not None and _kind(found) == kind:
                case, smaller = candidate, True
                break
    return case


def _simpler(case: Case) -> Iterator[Case]:
    """Yield cases with less in them."""
    changes: list[dict[str, Any]] = [{"later": ""}, {"channels_last": False}, {"autocast": False}]
    changes.append({"dtype": "float32", "default_dtype": "float32"})
    for change in changes:
        if replace(case, **change) != case:
            yield replace(case, **change)
    for program in _shrunk(case.program):
        yield replace(case, program=program)


def _kind(text: str) -> str:
    return re.sub(r"[\d.]+|of \w+|\[.*\]|\(.*\)", "", text)[:40]


def _shrunk(program: Program) -> Iterator[Program]:
    """Yield programs with less in them."""
    parts, setup, steps = dict(program.parts), program.setup, program.steps
    text = "\n".join((*setup, *steps))
    unused = [name for name in parts if not re.search(rf"self\.{name}\b", text)]
    for names in (unused, *([name] for name in unused)):
        if names:
            yield Program(tuple((k, v) for k, v in parts.items() if k not in names), setup, steps)
    for number in reversed(range(len(setup))):
        yield Program(program.parts, setup[:number] + setup[number + 1 :], steps)
    for number in reversed(range(len(steps))):
        before, after = steps[:number], steps[number + 1 :]
        if not steps[number].startswith("result = "):
            yield Program(program.parts, setup, before + after)
        match = re.fullmatch(r"(\w+) = (.*)", steps[number])
        if not match:
            continue
        target, value = match.groups()
        if re.fullmatch(r"\w+", value):
            renamed = (re.sub(rf"\b{target}\b", value, one) for one in after)
            yield Program(program.parts, setup, (*before, *renamed))
        names = sorted(set(re.findall(r"\b[a-z]+\d+\b|\bx\b", text)) - set(parts))
        calls = re.findall(r"self\.\w+\([^()]*\)", value)
        for simple in [*names, *calls, *(f"{name}.mean((2, 3))" for name in names)]:
            if len(simple) < len(value) and simple != target:
                yield Program(program.parts, setup, (*before, f"{target} = {simple}", *after))
    for number, (name, part) in enumerate(program.parts):
        if isinstance(part, Program):
            for inner in _shrunk(part):
                yield Program(
                    (*program.parts[:number], (name, inner), *program.parts[number + 1 :]), setup, steps
                )
        elif part.startswith("nn.Sequential(nn.Conv2d"):
            for simple in _items_of(part):
                yield Program(
                    (*program.parts[:number], (name, simple), *program.parts[number + 1 :]), setup, steps
                )


def _items_of(sequence: str) -> Iterator[str]:
    """Yield a sequence of modules without one of them."""
    items = re.findall(r"[\w.]+\((?:[^()]|\([^()]*\))*\)", sequence[len("nn.Sequential(") : -1])
    for number in range(len(items)):
        yield f"nn.Sequential({', '.join(items[:number] + items[number + 1 :])})"


def reproducer(case: Case, check: str, text: str) -> str:
    """Return a text with all that is needed to see a failure."""
    how = (
        f"images {case.shape} in batches of {case.batches}, channels_last={case.channels_last}, {case.dtype}"
        f", default dtype {case.default_dtype}, conventions {case.conventions}, later {case.later!r}"
        f", autocast={case.autocast}"
    )
    return f"# seed {case.seed}, {check}: {text}\n# {how}\n{case.program.source()}\n"


def main() -> None:
    """Compare the networks that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first network's seed")
    parser.add_argument("--count", type=int, default=1000, help="how many networks are compared")
    parser.add_argument("--check", choices=CHECKS, action="append", help="only these comparisons")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    failing: dict[str, list[int]] = {}
    shown: Counter[str] = Counter()
    begun = time.monotonic()
    for number, seed in enumerate(range(options.seed, options.seed + options.count), 1):
        case = random_case(seed)
        for check, text in failures(case, tuple(options.check or CHECKS), outcomes).items():
            failing.setdefault(f"{check}: {_kind(text)}", []).append(seed)
            key = f"{check}: {_kind(text)}"
            shown[key] += 1
            if shown[key] == 1:
                small = minimised(case, check, text)
                print(reproducer(small, check, failures(small, (check,)).get(check, text)), flush=True)
        if not options.quiet and (number % 20 == 0 or number == options.count):
            seconds = time.monotonic() - begun
            many = sum(map(len, failing.values()))
            print(
                f"\r{number} of {options.count} networks, {many} failures, {seconds:.0f} s",
                end="",
                file=sys.stderr,
            )
    print(file=sys.stderr)
    for outcome, count in sorted(outcomes.items(), key=lambda item: (item[0].split(":")[0], -item[1])):
        print(f"{count:6} {outcome}")
    for kind, seeds in failing.items():
        print(f"{len(seeds):6} FAIL {kind}: seeds {seeds[:20]}")
    sys.exit(bool(failing))
