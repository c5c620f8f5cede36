"""The space of cells: counts, text forms, genotypes, and its use by constraints and searchers."""

import contextlib
import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.spaces import CellSpace
from lasfast.spaces.cell import OPERATIONS, Edge

SMALL = CellSpace(2, ["skip_connect", "max_pool_3x3"])
V2 = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
normal_concat=[2, 3, 4, 5],
reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
reduce_concat=[2, 3, 4, 5])"""
AMOEBANET = """Genotype(normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0),
('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1),
('skip_connect', 0), ('avg_pool_3x3', 1)], normal_concat=[4, 5, 6],
reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_7x7', 2),
('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1),
('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)],
reduce_concat=[3, 4, 6])"""
TEXT = (
    "sep3.0+sep3.1-sep3.0+sep3.1-skip.0+sep3.1-skip.0+dil3.2--"
    "max3.0+max3.1-max3.1+skip.2-max3.0+skip.2-max3.1+skip.2"
)


def test_it_counts_what_it_enumerates() -> None:
    every = list(SMALL.enumerate())
    assert len(every) == len(set(every)) == SMALL.count() == (1 * 3 * 2**4) ** 2
    assert all(architecture in SMALL for architecture in every)


def test_it_is_the_space_of_the_paper() -> None:
    """Liu et al. 2019, appendix: a cell is a product of 7^2 (k + 1) k / 2, k = 1 to 4, about 10^9."""
    space = CellSpace()
    assert space.count() == (1 * 3 * 6 * 10 * 7**8) ** 2
    assert len(space.edges) == 14
    assert space.edges[:5] == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def test_texts_are_read_back() -> None:
    for architecture in itertools.islice(SMALL.enumerate(), 0, None, 97):
        assert SMALL.parse(SMALL.format(architecture)) == architecture
        assert SMALL.parse(SMALL.genotype(architecture)) == architecture
    space, rng = CellSpace(), random.Random(0)
    for _ in range(50):
        architecture = space.sample(rng)
        assert (
            space.parse(space.format(architecture))
            == space.parse(space.genotype(architecture))
            == architecture
        )


def test_a_published_genotype_is_read() -> None:
    space = CellSpace()
    architecture = space.parse(V2)
    assert space.format(architecture) == TEXT
    normal, reduction = space.cells(architecture)
    assert normal[2] == (Edge(0, "skip_connect"), Edge(1, "sep_conv_3x3"))  # in the order of their sources
    assert reduction[3] == (Edge(1, "max_pool_3x3"), Edge(2, "skip_connect"))
    assert space.architecture(normal, reduction) == architecture
    assert space.parse(V2.replace("[2, 3, 4, 5]", "range(2, 6)")) == architecture


def nested(edges: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    return [edges[first : first + 2] for first in range(0, len(edges), 2)]


def written(
    normal: object, reduction: object, concat: object = (2, 3), other: object = (2, 3), name: str = "Genotype"
) -> str:
    return f"{name}(normal={normal}, normal_concat={concat}, reduce={reduction}, reduce_concat={other})"


EDGES = [("skip_connect", 1), ("max_pool_3x3", 0), ("max_pool_3x3", 2), ("skip_connect", 0)]
OTHERS = [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 1), ("skip_connect", 0)]


@pytest.mark.parametrize(
    "text",
    [
        written(EDGES, OTHERS),
        written(nested(EDGES), nested(OTHERS)),
        written(tuple(map(list, EDGES)), nested(OTHERS), "range(2, 4)", {2, 3}),
        written(nested(EDGES[1::-1] + EDGES[:1:-1]), OTHERS),  # a node's edges in another order
        f"genotype = {written(EDGES, OTHERS, name='genotypes.Genotype')}  # as logs have it\n",
        f"Genotype({EDGES}, range(2, 4), {OTHERS}, [2, 3])",
        f"Genotype({EDGES}, [2, 3], reduce_concat=[2, 3], reduce={OTHERS})",
        json.dumps(
            {"reduce_concat": [2, 3], "normal": EDGES, "reduce": nested(OTHERS), "normal_concat": [2, 3]}
        ),
    ],
)
def test_genotypes_are_read_as_people_write_them(text: str) -> None:
    assert SMALL.format(SMALL.parse(text)) == "max3.0+skip.1-skip.0+max3.2--max3.0+max3.1-skip.0+skip.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (written(EDGES, OTHERS, "[3]"), r"normal_concat must be \[2, 3\].*other networks; got \[3\]"),
        (written(EDGES, OTHERS, other="range(3, 4)"), r"reduce_concat must be \[2, 3\].*got range\(3, 4\)"),
        (written(EDGES, OTHERS, "[3, 2]"), r"got \[3, 2\]"),
        (written(EDGES, OTHERS, "[2, 3, 3]"), r"got \[2, 3, 3\]"),
        (written(EDGES, OTHERS, "range(2, 6)"), r"got range\(2, 6\)"),
        (written(EDGES, OTHERS, "None"), "got None"),
        (written(EDGES, OTHERS, "list(range(2, 4))"), r"literals or range.*got list\(range\(2, 4\)\)"),
        (written(EDGES[:3], OTHERS), "normal must have 4 edges, two for each of the 2 nodes, got 3"),
        (written(EDGES, OTHERS + OTHERS), "reduce must have 4 edges, two for each of the 2 nodes, got 8"),
        (written([*nested(EDGES), *nested(EDGES)], OTHERS), "the normal cell must have 2 nodes, got 4"),
        (written([EDGES[:3], EDGES[:1]], OTHERS), r"node 2 .* got edges from \(0, 1, 2\)"),
        (written([EDGES[:2], EDGES[:1]], OTHERS), r"node 3 of the normal .* got edges from \(1,\)"),
        (written([*EDGES[:2], EDGES[0], EDGES[0]], OTHERS), r"node 3 of the normal .* \(1, 1\)"),
        (written(EDGES[::-1], OTHERS), r"node 2 of the normal .* \(0, 2\)"),
        (written([*EDGES[:3], ("skip_connect", -1)], OTHERS), r"node 3 of the normal .* \(-1, 2\)"),
        (
            written([*EDGES[:3], ("sep_conv_7x7", 1)], OTHERS),
            "one of skip_connect, max_pool_3x3, got 'sep_conv_7",
        ),
        (written([*EDGES[:3], ("skip_connect", 1.0)], OTHERS), r"got \('skip_connect', 1.0\)|normal must be"),
        (written([*EDGES[:3], ("skip_connect", True)], OTHERS), "normal must be a list of edges"),
        (written([*EDGES[:3], ("skip_connect", 1, 2)], OTHERS), "normal must be a list of edges"),
        (written([EDGES[:2], *EDGES[2:]], OTHERS), "normal must be a list of edges"),
        (written("'skip_connect'", OTHERS), "normal must be a list of edges .* got 'skip_connect'"),
        (written("edges", OTHERS), "normal must be a list of literals .* got edges"),
        (written(EDGES, OTHERS) + ", 3", "text must be a genotype, Genotype"),
        (written(EDGES, OTHERS) + "\nprint(3)", "text must be a genotype, Genotype"),
        (written(EDGES, OTHERS)[:-1], "text must be a genotype, got .* was never closed"),
        (written(EDGES, OTHERS, name="Cells"), "text must be a genotype, Genotype"),
        (f"({EDGES}, [2, 3], {OTHERS}, [2, 3])", "text must be a genotype, Genotype"),
        (f"Genotype(normal={EDGES}, reduce={OTHERS})", "normal_concat, reduce_concat is missing"),
        (f"Genotype({EDGES}, [2, 3], {OTHERS}, [2, 3], 4)", "reduce_concat, got 1 more"),
        (f"Genotype({EDGES}, normal={EDGES})", "got normal twice"),
        (f"Genotype(normal={EDGES}, normal_bottom={OTHERS})", "got another: 'normal_bottom'"),
        ("Genotype(**{'normal': 3})", "got another: None"),
        ('{"normal": [], 3: []}', "got another: 3"),
        ("Genotype(__import__('os').getcwd())", "normal must be a list of literals"),
        ("Genotype(" + "[" * 1000, "text must be a genotype"),
        ("Genotype(" + "-" * 10000 + "1)", "text must be a genotype"),
        ("Genotype(\0)", "text must be a genotype"),
    ],
)
def test_what_a_genotype_cannot_mean_here_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.parse(text)


def test_published_cells_of_another_form_are_refused() -> None:
    """Their output leaves nodes out, and they have operations and nodes that this space has not."""
    with pytest.raises(ValueError, match=r"normal_concat must be \[2, 3, 4, 5, 6\].*got \[4, 5, 6\]"):
        CellSpace(nodes=5).parse(AMOEBANET)
    whole = AMOEBANET.replace("[4, 5, 6]", "range(2, 7)").replace("[3, 4, 6]", "range(2, 7)")
    with pytest.raises(
        ValueError, match="node 5 of the normal cell must have two edges from different nodes"
    ):
        CellSpace(nodes=5).parse(whole)


@given(
    st.data(),
    st.sampled_from([written(EDGES, nested(OTHERS), "range(2, 4)"), SMALL.format((0,) * 12)]),
    st.lists(
        st.sampled_from(
            ["", "'", "\0", "é", "(", ")", "[", "]", ",", "0", "2", "-", "--", "+", ".", "=", "a", "\\"]
        )
    ),
)
def test_damaged_texts_raise_nothing_but_a_value_error(data, text: str, damages: list[str]) -> None:
    for damage in damages:
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + damage + text[place + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(ValueError):
        assert SMALL.parse(text) in SMALL


def test_variations_differ_in_one_decision() -> None:
    space, rng = CellSpace(), random.Random(1)
    parent = space.sample(rng)
    for _ in range(50):
        child = space.vary(parent, rng)
        assert child in space
        assert sum(one != other for one, other in zip(parent, child, strict=True)) == 1


def test_equal_descriptions_mean_the_same_space() -> None:
    described = CellSpace(2, ["skip_connect", "max_pool_3x3"]).describe()
    assert described == SMALL.describe() == json.loads(json.dumps(described))
    assert described != CellSpace(2, ["max_pool_3x3", "skip_connect"]).describe() != CellSpace(2).describe()
    assert eval(repr(SMALL)).describe() == described


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip.0+skip.1-skip.0+skip.1", "a normal and a reduction cell joined by '--'"),
        ("skip.0+skip.1--skip.0+skip.1", "the normal cell must have 2 nodes, got 1"),
        ("skip.0+skip.1-skip.0+skip.0--x", "an edge must be one of max3, .* as 'sep3.0', got 'x'"),
        ("skip.0+skip.1-skip.2+skip.2--skip.0+skip.1-skip.0+skip.1", r"node 3 of the normal .* \(2, 2\)"),
        ("skip.0+skip.1-skip.0+skip.1--skip.0+skip.1-skip.0+skip.3", r"node 3 of the reduction .* \(0, 3\)"),
        ("skip.0+skip.1-skip.0--skip.0+skip.1-skip.0+skip.1", r"got edges from \(0,\)"),
        ("skip.0+sep3.1-skip.0+skip.1--skip.0+skip.1-skip.0+skip.1", "got 'sep_conv_3x3'"),
        ("Genotype()", "normal, normal_concat, reduce, reduce_concat is missing"),
    ],
)
def test_a_malformed_text_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.parse(text)
    with pytest.raises(TypeError, match="text must be a string"):
        SMALL.parse(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0,), ValueError),
        ((True,), TypeError),
        ((4, []), ValueError),
        ((4, "skip_connect"), TypeError),
        ((4, ["skip_connect", "skip_connect"]), ValueError),
        ((4, ["none", *OPERATIONS]), ValueError),
    ],
)
def test_wrong_arguments_are_refused(arguments, error) -> None:
    with pytest.raises(error, match=r"nodes|operations"):
        CellSpace(*arguments)
