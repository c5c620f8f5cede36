"""What parts of a tree take to calibrate, told from the schedule of the whole tree.

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
    """Sizes of the parts of one tree, of whose calibration, one operation at a time, there is a layout."""

    def __init__(self, tree: PrefixTree, layout: Layout, images: int) -> None:
        self._tree, self._layout, self._images = tree, layout, images
        self._leaves = dict(zip(tree.paths, tree.leaves, strict=True))
        self._whole_bytes = layout.batch_bytes(images)
        values = layout.schedule.values
        pitches = [layout.pitch(channels) for channels in values["channels"].tolist()]
        elements = np.array(pitches) * values["height"] * values["width"]
        self._sizes = -(-elements // ALIGNMENT) * ALIGNMENT

    def bytes(self, part: PrefixTree) -> int:
        """Return about how many bytes a batch takes."""
        spared = self._layout.schedule.arena - self._arena(part)
        return self._whole_bytes - spared * self._images * self._layout.itemsize

    def _arena(self, part: PrefixTree) -> int:
        """Return the elements per image of an arena for the part's operations."""
        nodes = np.zeros(len(self._tree.nodes) + 1, dtype=bool)
        nodes[ROOT] = True  # the last
        for path in part.paths:
            nodes[list(self._tree.node_path(self._leaves[path]))] = True
        schedule = self._layout.schedule
        operations = schedule.operations[nodes[schedule.nodes]]
        times = np.arange(len(operations))
        births, last = np.zeros((2, len(schedule.values)), dtype=np.int64)
        stores = operations["output"] >= 0
        stored = operations["output"][stores]
        births[stored] = last[stored] = times[stores]
        for name in ("input", "other"):
            reads = operations[name] >= 0
            np.maximum.at(last, operations[name][reads], times[reads])
        lives = list(zip(births[stored].tolist(), last[stored].tolist(), strict=True))
        _, arena = first_fit(self._sizes[stored].tolist(), lives)
        return arena
