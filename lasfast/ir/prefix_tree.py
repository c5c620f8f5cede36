"""The plan: the prefix tree of the paths of a batch of architectures.

Two paths that begin with the same layers compute the same there, with the same weights and the same
images, hence with the same batch statistics. The work of a batch is the tree's nodes, not the sum of
its paths. Nodes stand in depth-first order (a node before its children, siblings in order of first
appearance): running them in that order holds at most one unfinished activation per depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from lasfast.ir.layers import Layer, Path, Shape

ROOT = -1
"""The parent of nodes that read the images."""


@dataclass(frozen=True)
class Node:
    """One layer at one place of the tree. `uses` counts its children: how often its output is read."""

    layer: Layer
    parent: int
    depth: int
    uses: int


class PrefixTree:
    """The prefix tree of `paths`.

    `nodes` in depth-first order; `leaves[i]` is the node whose output is the logits of `paths[i]` (equal
    paths share it).
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths or not all(paths):
            raise ValueError("paths must hold at least one path, and none may be empty")
        self.paths = tuple(paths)
        tree = _Branch()
        ends = [tree.insert(path) for path in self.paths]
        nodes: list[Node] = []
        index: dict[int, int] = {}
        for branch, layer, parent, depth in tree.walk():
            index[id(branch)] = len(nodes)
            nodes.append(Node(layer, index.get(id(parent), ROOT), depth, len(branch.children)))
        self.nodes = tuple(nodes)
        self.leaves = tuple(index[id(end)] for end in ends)
        if any(self.nodes[leaf].uses for leaf in self.leaves):
            raise ValueError(
                "paths: one path is the beginning of another, so it does not end in a classifier"
            )

    @property
    def sharing_ratio(self) -> float:
        """Layers of all paths over nodes of the tree: 1 where nothing is shared."""
        return sum(len(path) for path in self.paths) / len(self.nodes)

    def node_path(self, leaf: int) -> tuple[int, ...]:
        """Return the nodes from the images to a leaf."""
        nodes = []
        node = leaf
        while node != ROOT:
            nodes.append(node)
            node = self.nodes[node].parent
        return tuple(reversed(nodes))

    def peak_bytes(self, image_shape: Shape, images: int, itemsize: int = 4) -> int:
        """Return the most bytes of activations alive at once when `images` images run through the tree.

        Counts the values inside the running layer, and the outputs that wait for a child still to run.
        """
        return images * itemsize * max(self._live(image_shape))

    def chunks(self, budget: int | None, cost: Callable[[PrefixTree], int]) -> list[PrefixTree]:
        """Cut into plans whose `cost` stays within `budget` bytes, as few as greedy filling gives.

        Neighbours in the tree stay together. A single path that is over the budget is a chunk of its own:
        the caller decides whether fewer images help. The chunks' paths, in order, are this plan's paths in
        depth-first order; `paths` says which is which.
        """
        if budget is None or cost(self) <= budget:
            return [self]
        rest = self._neighbours()
        chunks: list[PrefixTree] = []
        while rest:
            # The cost grows with the paths: bisect for the most that fit.
            best, low, high = PrefixTree(rest[:1]), 1, len(rest)
            while low < high:
                middle = (low + high + 1) // 2
                plan = PrefixTree(rest[:middle])
                if cost(plan) <= budget:
                    best, low = plan, middle
                else:
                    high = middle - 1
            chunks.append(best)
            rest = rest[low:]
        return chunks

    def parts(self, count: int) -> list[PrefixTree]:
        """Cut into `count` plans of nearly as many paths, or one for each path. Neighbours stay together."""
        if count == 1:
            return [self]
        paths = self._neighbours()
        count = min(count, len(paths))
        return [
            PrefixTree(paths[number * len(paths) // count : (number + 1) * len(paths) // count])
            for number in range(count)
        ]

    def _neighbours(self) -> list[Path]:
        """Return the paths in depth-first order."""
        pairs = sorted(zip(self.leaves, self.paths, strict=True), key=lambda pair: pair[0])
        return [path for _, path in pairs]

    def _live(self, image_shape: Shape) -> Iterator[int]:
        """Give, for each node as it runs, how many activation elements an image needs at that moment."""
        outputs: dict[int, Shape] = {ROOT: image_shape}
        waiting: dict[int, int] = {ROOT: sum(node.parent == ROOT for node in self.nodes)}
        for index, node in enumerate(self.nodes):
            shapes = node.layer.shapes(outputs[node.parent])
            held = sum(prod(outputs[other]) for other in waiting)
            yield held + sum(prod(shape) for shape in shapes[1:])
            outputs[index] = shapes[-1]
            waiting[node.parent] -= 1
            if not waiting[node.parent]:
                del waiting[node.parent]
            if node.uses:
                waiting[index] = node.uses


class _Branch:
    """The tree under construction."""

    def __init__(self) -> None:
        self.children: dict[Layer, _Branch] = {}

    def insert(self, path: Path) -> _Branch:
        branch = self
        for layer in path:
            branch = branch.children.setdefault(layer, _Branch())
        return branch

    def walk(self) -> Iterator[tuple[_Branch, Layer, _Branch, int]]:
        """Give (branch, its layer, its parent, depth) depth-first, without recursion."""
        stack = [(child, layer, self, 0) for layer, child in reversed(self.children.items())]
        while stack:
            branch, layer, parent, depth = stack.pop()
            yield branch, layer, parent, depth
            stack += [(c, inner, branch, depth + 1) for inner, c in reversed(branch.children.items())]
