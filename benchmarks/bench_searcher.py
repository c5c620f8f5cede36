"""The time that searchers themselves need for asking and telling, with many observed candidates.

pytest benchmarks/bench_searcher.py --benchmark-group-by=param:who

The space is Table 13 of LayerNAS (31 decisions, 1.6e39 architectures), the bound is its 600 M multiply-adds,
and the value of an architecture is a sum over its options, which takes no time. The searchers compute FLOPs
while they run, and these count. `extra_info` has the candidates a second that were asked for and observed. A
searcher that went through all observations in each step would get slower with their number. `Random` proposes
all of its architectures in its first step, which is not timed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lasfast import costs
from lasfast.constraints import Constraint
from lasfast.searchers import Evolution, LayerNAS, Random, RegularizedEvolution, Searcher
from lasfast.supernets import MobileNet

MOST = 2**17
STEPS, ROUNDS = 200, 5
KNOWN = (1_000, 10_000, 100_000)

SUPERNET = MobileNet("600M")
SPACE = SUPERNET.space
FLOPS = costs.functions(SUPERNET, (224, 224))
AT_MOST = Constraint("flops<=600M", FLOPS)

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "layernas, 580 to 600 M": lambda: LayerNAS(SPACE, cost=FLOPS["flops"], target=(580e6, 600e6)),
    "layernas, 599 to 600 M": lambda: LayerNAS(SPACE, cost=FLOPS["flops"], target=(599e6, 600e6)),
    "evolution": lambda: Evolution(SPACE, constraint=AT_MOST, generations=MOST // 50),
    "regularized evolution": lambda: RegularizedEvolution(SPACE, constraint=AT_MOST, evaluations=MOST),
    "random": lambda: Random(SPACE, samples=MOST, constraint=AT_MOST),
}


@pytest.fixture(scope="module", params=SEARCHERS)
def who(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def searcher(who: str) -> Searcher:
    """A searcher that all tests of a kind share: each continues the search of the one before."""
    return SEARCHERS[who]()


@pytest.fixture(scope="module")
def value() -> Callable[[tuple[int, ...]], float]:
    rng = random.Random(0)
    values = [[rng.random() for _ in options] for options in SPACE.options]
    return lambda architecture: sum(map(list.__getitem__, values, architecture))


def play(searcher: Searcher, value: Callable[[tuple[int, ...]], float], wanted: int) -> int:
    """Continue the search for at least `wanted` more observations; return how many were made."""
    observed = 0
    while observed < wanted:
        candidates = searcher.ask(50)
        assert candidates, f"the search ended after {len(searcher.results)} candidates"
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))
        observed += len(candidates)
    return observed


@pytest.mark.parametrize("known", KNOWN)
def test_ask_and_tell(benchmark: Callable, searcher: Searcher, value: Callable, known: int) -> None:
    play(searcher, value, known - len(searcher.results))
    observed = []
    benchmark.group = f"{known:,} candidates known"
    benchmark.pedantic(lambda: observed.append(play(searcher, value, STEPS)), rounds=ROUNDS)
    seconds = sum(benchmark.stats.stats.data)
    benchmark.extra_info["candidates/s"] = round(sum(observed) / seconds)
