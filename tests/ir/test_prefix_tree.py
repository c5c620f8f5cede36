import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lasfast import supernets
from lasfast.ir import layers
from lasfast.ir.prefix_tree import ROOT, PrefixTree
from lasfast.supernets import Layer

SUPERNET = supernets.ResidualNet((5, 5, 5))
ASSIGNMENTS = list(SUPERNET.space.enumerate(depth=9))
SHAPE = (3, 32, 32)

assignments = st.lists(st.sampled_from(ASSIGNMENTS), min_size=1, max_size=8)


def tree_of(architectures) -> PrefixTree:
    return PrefixTree([SUPERNET.path(a) for a in architectures])


def test_nodes_are_the_distinct_prefixes() -> None:
    paths = [SUPERNET.path(a) for a in ASSIGNMENTS]
    prefixes = {path[:length] for path in paths for length in range(1, len(path) + 1)}
    tree = PrefixTree(paths)
    assert len(tree.nodes) == len(prefixes)
    assert tree.sharing_ratio == sum(map(len, paths)) / len(prefixes)
    assert tree.sharing_ratio > 1.5


@given(assignments, st.integers(1, 10))
def test_parts_are_neighbours_of_nearly_as_many_paths(architectures, count: int) -> None:
    tree = tree_of(dict.fromkeys(architectures))
    parts = tree.parts(count)
    sizes = [len(part.paths) for part in parts]
    assert len(parts) == min(count, len(tree.paths))
    assert max(sizes) - min(sizes) <= 1
    if count > 1:
        order = sorted(range(len(tree.paths)), key=lambda number: tree.leaves[number])
        assert [path for part in parts for path in part.paths] == [tree.paths[number] for number in order]


@given(assignments)
def test_every_leaf_runs_its_path(architectures) -> None:
    tree = tree_of(architectures)
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        nodes = tree.node_path(leaf)
        assert tuple(tree.nodes[node].layer for node in nodes) == path
        assert [tree.nodes[node].depth for node in nodes] == list(range(len(path)))


@given(assignments)
def test_a_node_comes_after_its_parent_and_children_are_counted(architectures) -> None:
    tree = tree_of(architectures)
    children = [0] * len(tree.nodes)
    for index, node in enumerate(tree.nodes):
        assert node.parent < index
        if node.parent != ROOT:
            children[node.parent] += 1
    assert children == [node.uses for node in tree.nodes]


def test_equal_paths_share_a_leaf() -> None:
    tree = tree_of([(1, 2, 3), (2, 2, 2), (1, 2, 3)])
    assert tree.leaves[0] == tree.leaves[2] != tree.leaves[1]


@settings(deadline=None)
@given(assignments, st.integers(0, 4_000_000), st.integers(1, 9))
def test_chunks_hold_every_path_once_within_the_budget(architectures, budget: int, images: int) -> None:
    tree = tree_of(architectures)
    chunks = tree.chunks(budget, lambda part: part.peak_bytes(SHAPE, images))
    chunked = list(itertools.chain.from_iterable(chunk.paths for chunk in chunks))
    assert sorted(map(str, chunked)) == sorted(map(str, tree.paths))
    for chunk in chunks:
        assert chunk.peak_bytes(SHAPE, images) <= budget or len(chunk.paths) == 1


def test_a_chunk_is_as_large_as_fits() -> None:
    tree = tree_of(ASSIGNMENTS)
    chunks = tree.chunks(5, lambda part: len(part.paths))
    assert [len(chunk.paths) for chunk in chunks[:-1]] == [5] * (len(chunks) - 1)


def test_no_budget_is_one_chunk() -> None:
    tree = tree_of(ASSIGNMENTS)
    assert tree.chunks(None, lambda part: 1) == [tree]


def test_peak_bytes_of_a_small_tree_by_hand() -> None:
    stem = Layer("stem", (layers.Conv2d("c", 3, 4, 1),))  # 3x2x2 = 12 values in, 16 out
    heads = [Layer(name, (layers.GlobalAvgPool(), layers.Linear(name, 4, 10))) for name in "ab"]
    tree = PrefixTree([(stem, head) for head in heads])
    # A head that runs holds the stem's 16 values, which the other head still reads, and its own 4 and 10.
    assert tree.peak_bytes((3, 2, 2), images=5, itemsize=2) == 5 * 2 * (16 + 4 + 10)


@pytest.mark.parametrize("paths", [[], [()]])
def test_empty_paths_are_refused(paths) -> None:
    with pytest.raises(ValueError, match="paths"):
        PrefixTree(paths)


def test_a_path_that_begins_another_is_refused() -> None:
    path = SUPERNET.path((1, 1, 1))
    with pytest.raises(ValueError, match="the beginning of another"):
        PrefixTree([path, path[:-1]])
