"""Which layer assignments a search admits by default, and what it says of the others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lasfast.cli import setup
from lasfast.cli.search_supernet import _shut_out
from lasfast.spaces import LayerAssignmentSpace


@pytest.mark.parametrize(
    ("family", "depth", "most", "published"),
    [
        ("mobilenet-v1", 12, (5, 5, 6, 5), [(2, 2, 6, 2), (2, 5, 2, 3), (2, 3, 4, 3)]),
        ("mobilenet-v1", 8, (4, 4, 4, 4), []),
        ("resnet50", 16, (6, 6, 6, 6), [(3, 4, 6, 3), (5, 6, 4, 1)]),
        ("plain", 15, (8, 7, 7), [(8, 4, 3)]),
        ("residual", 15, (7, 7, 8), [(2, 5, 8)]),
        ("residual", 9, (5, 5, 5), []),
    ],
)
def test_published_assignments_can_be_found(family: str, depth: int, most: tuple, published: list) -> None:
    options = SimpleNamespace(supernet=family, max_layers=None)
    assert setup.parse_max_layers(options, depth) == most
    space = LayerAssignmentSpace(len(most), most)
    assert all(one in space and sum(one) == depth for one in published)


def test_what_is_shut_out_is_said() -> None:
    # Of the 28 of depth 9, three have 7 layers in a group, and six have 6.
    text = _shut_out(LayerAssignmentSpace(3, 5), 9)
    assert text.startswith("19 of the 28 assignments of depth 9 can be found: the others exceed 5-5-5 layers")
    assert "--max-layers 7 admits them" in text
    assert _shut_out(LayerAssignmentSpace(3, 7), 9) == "all 28 assignments of depth 9 can be found"
