import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.constraints import Bound, Constraint, UnknownCostError, describe_function, parse_bounds


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("flops<=330M", [Bound("flops", high=330e6)]),
        ("flops <= 330M, params<=4M", [Bound("flops", high=330e6), Bound("params", high=4e6)]),
        ("latency<=12ms@cpu", [Bound("latency@cpu", high=0.012)]),
        (
            "latency<=0.5@cpu,latency<=3s@gpu.0",
            [Bound("latency@cpu", high=0.5), Bound("latency@gpu.0", high=3)],
        ),
        ("flops>=300M,flops<=0.33G", [Bound("flops", 300e6, 330e6)]),
        ("flops<=3e8,flops<=2e8,flops>=1e8", [Bound("flops", 1e8, 2e8)]),
        ("memory<=2MiB", [Bound("memory", high=2 * 2**20)]),
        ("bitops<=6.32T", [Bound("bitops", high=6.32e12)]),
        ("bitops<=6.5Gi", [Bound("bitops", high=6.5 * 2**30)]),
        ("params<=12", [Bound("params", high=12)]),
        ("8M<=params<=9M", [Bound("params", 8e6, 9e6)]),
        (
            "0.5 ms <= latency <= 2ms@cpu, flops<=1G",
            [Bound("latency@cpu", 5e-4, 2e-3), Bound("flops", high=1e9)],
        ),
        ("8M<=params<=9M,params>=8500k", [Bound("params", 8.5e6, 9e6)]),
    ],
)
def test_reads_bounds(text, bounds):
    assert parse_bounds(text) == tuple(bounds)


@given(st.lists(st.sampled_from(["flops", "params", "latency@cpu"]), min_size=1, unique=True), st.data())
def test_what_is_written_is_read_again(names, data):
    limits = st.floats(0, 1e12, allow_subnormal=False)
    bounds = []
    for name in names:
        low, high = sorted(data.draw(st.tuples(limits, limits)))
        sides = data.draw(st.sampled_from([(low, math.inf), (-math.inf, high), (low, high)]))
        bounds.append(Bound(name, *sides))
    again = parse_bounds(",".join(map(str, bounds)))
    assert [bound.cost for bound in again] == names
    for one, other in zip(again, bounds, strict=True):
        assert one.low == pytest.approx(other.low, rel=1e-11)
        assert one.high == pytest.approx(other.high, rel=1e-11)


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (Bound("flops", high=330e6), "flops<=330M"),
        (Bound("flops", 299.5e6), "flops>=299.5M"),
        (Bound("params", 8e6, 9123456), "8M<=params<=9.12346M"),
        (Bound("latency@cpu", 5e-4, 0.012), "500us<=latency<=12ms@cpu"),
        (Bound("memory", high=2.5e6), "memory<=2.5MB"),
        (Bound("sum", 0, 6), "0<=sum<=6"),
        (Bound("sum@gpu"), "any sum@gpu"),
    ],
)
def test_bounds_are_written_to_be_read(bound, text):
    assert bound.readable() == text
    if "any" not in text:
        assert parse_bounds(text)[0].cost == bound.cost


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        ("", ValueError, "constraint must be bounds such as"),
        ("flops", ValueError, "got 'flops'"),
        ("flops<330M", ValueError, "got 'flops<330M'"),
        ("flops<=-3", ValueError, "got 'flops<=-3'"),
        ("flops<=3M,", ValueError, "got ''"),
        ("flops<=1.2.3", ValueError, "'1.2.3' is no number"),
        ("flops<=1e999", ValueError, "'1e999' is no number"),
        ("flops<=12ms", ValueError, "the unit of flops must be one of k, K, M, G, T"),
        ("latency<=12M@cpu", ValueError, "the unit of latency must be one of s, ms, us"),
        ("memory<=12ms", ValueError, "the unit of memory must be one of B, kB"),
        ("8M<=params", ValueError, "got '8M<=params'"),
        ("8M<=params>=9M", ValueError, "got '8M<=params>=9M'"),
        ("8M<=9M<=params", ValueError, "got '8M<=9M<=params'"),
        ("8ms<=params<=9M", ValueError, "the unit of params must be one of k, K, M, G, T"),
        ("9M<=params<=8M", ValueError, "params must be at least 9000000 and at most 8000000"),
        ("flops>=4M,flops<=3M", ValueError, "flops must be at least 4000000 and at most 3000000"),
        ("flops<=50%", ValueError, "'%' is relative to the network that has all weights, and there is none"),
        ("flops<=0.5y", ValueError, "the unit of flops must be one of k, .*, %, x"),
        (330, TypeError, "constraint must be text"),
    ],
)
def test_malformed_text_is_refused(text, error, problem):
    with pytest.raises(error, match=problem):
        parse_bounds(text)


def test_all_bounds_must_be_met():
    constraint = Constraint("sum>=2,sum<=4,first<=1", {"sum": sum, "first": lambda one: one[0], "other": max})
    assert [constraint(one) for one in [(1, 1), (1, 3), (0, 1), (1, 4), (2, 2)]] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert str(constraint) == constraint.describe() == "sum<=4,sum>=2,first<=1"
    assert set(constraint.costs) == {"sum", "first"}


def test_numbers_may_be_relative_to_a_whole_network():
    costs = {"sum": sum, "latency@cpu": lambda one: one[0] / 100}
    constraint = Constraint("25%<=sum<=0.5x,latency<=50%@cpu", costs, whole=(6, 2))
    assert constraint.bounds == (Bound("sum", 2, 4), Bound("latency@cpu", high=0.03))
    assert [constraint(one) for one in [(3, 1), (3, 2), (4, 0), (1, 0)]] == [True, False, False, False]
    with pytest.raises(ValueError, match="the cost must be one of sum, latency@cpu"):
        Constraint("other<=50%", costs, whole=(6, 2))


def test_takes_bounds_as_objects():
    assert Constraint([Bound("sum", high=3)], {"sum": sum})((1, 2))
    with pytest.raises(ValueError, match="at least one"):
        Constraint([], {"sum": sum})


def test_a_cost_that_is_not_known_is_named():
    with pytest.raises(ValueError, match=r"'memory<=9': the cost must be one of flops, params$"):
        Constraint("memory<=9", {"flops": sum, "params": sum})
    named = (
        r"'latency<=0\.012@cpu': the cost must be one of flops, params; latencies need a table of that name"
    )
    with pytest.raises(ValueError, match=named):
        Constraint("latency<=12ms@cpu", {"flops": sum, "params": sum})


def test_a_cost_that_is_no_number_is_refused():
    with pytest.raises(UnknownCostError, match=r"flops must be a finite number, got nan for \(1,\)"):
        Constraint("flops<=3", {"flops": lambda _: math.nan})((1,))


def cost_of_a_module(architecture):
    return sum(architecture)


class Described:
    def __call__(self, architecture):
        return True

    def describe(self):
        return "mine"


class Undescribed:
    def __call__(self, architecture):
        return True


def test_functions_are_described_by_themselves_or_by_name():
    assert describe_function(None) is None
    assert describe_function(Constraint("a<=1", {"a": sum})) == "a<=1"
    assert describe_function(Described()) == "mine"
    assert describe_function(Undescribed()).endswith("Undescribed")
    assert describe_function(cost_of_a_module) == f"{__name__}.cost_of_a_module"
