"""Tells from the schedule of a whole tree how many bytes it takes to calibrate parts of it.

Where to cut a tree that is over a budget is found by comparing many parts, none of which is lowered. A part's
operations are nearly those that the whole has in its nodes: a few may be fused in the part alone, where the
whole has more readers. So these sizes are close, and a chunk's own schedule has the last word.
"""

from __future__ import annotations

import numpy as np

from lasfast.engine.layout import Layout
from lasfast.engine.memory import first_fit
from lasfast.engine.schedule import ALIGNMENT
from lasfast.ir.prefix_tree import ROOT, PrefixTree


class PartSizes:
    """Sizes of the parts of one tree, given the layout of its calibration one operation at a time."""

    def __init__(self, tree: PrefixTree, layout: Layout, images: int) -> None:
        self._tree, self._layout, self._images = tree, layout, images
        self._leaves = dict(zip(tree.paths, tree.leaves, strict=True))
        self._bytes = layout.batch_bytes(images) - layout.workspace_bytes(layout.operations, images)
        values = layout.schedule.values
        pitches = [layout.pitch(channels) for channels in values["channels"].tolist()]
        elements = np.array(pitches) * values["height"] * values["width"]
        self._sizes = -(-elements // ALIGNMENT) * ALIGNMENT

    def bytes(self, part: PrefixTree) -> int:
        """Return about how many bytes a batch takes."""
        operations = self._operations(part)
        spared = self._layout.schedule.arena - self._arena(operations)
        workspace = self._layout.workspace_bytes(operations, self._images)
        return self._bytes - spared * self._images * self._layout.itemsize + workspace

    def _operations(self, part: PrefixTree) -> np.ndarray:
        """Return the operations of the part's nodes, of the whole's values."""
        nodes = np.zeros(len(self._tree.nodes) + 1, dtype=bool)
        nodes[ROOT] = True  # the last
        for path in part.paths:
            nodes[list(self._tree.node_path(self._leaves[path]))] = True
        operations = self._layout.operations[nodes[self._layout.schedule.nodes]]
        operations["level"] = np.arange(len(operations))
        return operations

    def _arena(self, operations: np.ndarray) -> int:
        """Return the elements per image of an arena in which these operations take turns."""
        births, last = np.zeros((2, len(self._sizes)), dtype=np.int64)
        stores = operations["output"] >= 0
        stored = operations["output"][stores]
        births[stored] = last[stored] = operations["level"][stores]
        for name in ("input", "other"):
            reads = operations[name] >= 0
            np.maximum.at(last, operations[name][reads], operations["level"][reads])
        lives = list(zip(births[stored].tolist(), last[stored].tolist(), strict=True))
        _, arena = first_fit(self._sizes[stored].tolist(), lives)
        return arena
