"""The space of cells: counts, text forms, genotypes, and its use by constraints and searchers."""

import itertools
import json
import random

import pytest

from lasfast.spaces import CellSpace
from lasfast.spaces.cell import OPERATIONS, Edge

SMALL = CellSpace(2, ["skip_connect", "max_pool_3x3"])
V2 = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
normal_concat=[2, 3, 4, 5],
reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
reduce_concat=[2, 3, 4, 5])"""
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
        (
            "Genotype(normal=[('skip_connect', 0)])",
            "normal cell of the genotype must have 4 edges|a list reduce",
        ),
        ("Genotype()", "a genotype with a list normal="),
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
