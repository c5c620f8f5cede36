"""The prefix tree of a batch of architectures: layers that their paths begin with in common are run once.

Two paths that begin with the same layers compute the same values there: weights and images are the same,
and so are batch statistics. The work of a batch is thus the nodes of the tree. Nodes stand in depth-first
order, a node before its children and siblings in order of first appearance; running them in this order
keeps at most one unfinished activation for each depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from lasfast.ir.layers import Layer, Path, Shape, misfit

ROOT = -1
"""The parent of nodes that read the images."""


@dataclass(frozen=True)
class Node:
    """A layer in the tree. `uses` is the number of its children, which read its output."""

    layer: Layer
    parent: int
    depth: int
    uses: int


class PrefixTree:
    """The prefix tree of `paths`.

    `nodes` are in depth-first order. `leaves[i]` is the index of the node whose output is the logits of
    `paths[i]`; equal paths have the same leaf.
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
        self._shapes: tuple[Shape, list[tuple[Shape, ...]]] | None = None
        self.leaves = tuple(index[id(end)] for end in ends)
        if any(self.nodes[leaf].uses for leaf in self.leaves):
            raise ValueError(
                "paths: one path is the beginning of another, so it does not end in a classifier"
            )

    @property
    def sharing_ratio(self) -> float:
        """The number of layers of all paths divided by the number of nodes; 1 if nothing is shared."""
        return sum(len(path) for path in self.paths) / len(self.nodes)

    def node_path(self, leaf: int) -> tuple[int, ...]:
        """Return the indices of the nodes from the images to a leaf."""
        nodes = []
        node = leaf
        while node != ROOT:
            nodes.append(node)
            node = self.nodes[node].parent
        return tuple(reversed(nodes))

    def shapes(self, image_shape: Shape) -> list[tuple[Shape, ...]]:
        """Return the shapes of all values of each node's layer, its input first, for images of a shape.

        Raises ValueError where such images do not fit a layer, which it names. What was asked last is kept.
        """
        shape = tuple(image_shape)
        if self._shapes is None or self._shapes[0] != shape:
            found: list[tuple[Shape, ...]] = []
            for node in self.nodes:
                source = shape if node.parent == ROOT else found[node.parent][-1]
                try:
                    found.append(node.layer.shapes(source))
                except ValueError as error:
                    raise misfit(shape, error) from None
            self._shapes = shape, found
        return self._shapes[1]

    def peak_bytes(self, image_shape: Shape, images: int, itemsize: int = 4) -> int:
        """Return the most bytes of activations held at once while `images` images run through the tree.

        These are the values inside the running layer, and the outputs that a child still has to read.
        """
        return images * itemsize * max(self._live(image_shape))

    def chunks(self, budget: int | None, cost: Callable[[PrefixTree], int]) -> list[PrefixTree]:
        """Cut the tree into smaller ones whose `cost` is within `budget` bytes, filled greedily.

        Neighbours in the tree stay together: the chunks' paths, one after another, are this tree's paths in
        depth-first order. A single path over the budget is a chunk of its own, for the caller to run on
        fewer images. A budget of None does not cut.
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
                tree = PrefixTree(rest[:middle])
                if cost(tree) <= budget:
                    best, low = tree, middle
                else:
                    high = middle - 1
            chunks.append(best)
            rest = rest[low:]
        return chunks

    def parts(self, count: int) -> list[PrefixTree]:
        """Cut the tree into `count` smaller ones with nearly equally many paths, at least one each.

        Neighbours in the tree stay together.
        """
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
        """Yield, for each node, how many activation elements an image needs while the node runs."""
        shapes = self.shapes(image_shape)
        outputs = {ROOT: prod(image_shape)} | {index: prod(inner[-1]) for index, inner in enumerate(shapes)}
        waiting: dict[int, int] = {ROOT: sum(node.parent == ROOT for node in self.nodes)}
        for index, node in enumerate(self.nodes):
            held = sum(outputs[other] for other in waiting)
            yield held + sum(prod(shape) for shape in shapes[index][1:])
            waiting[node.parent] -= 1
            if not waiting[node.parent]:
                del waiting[node.parent]
            if node.uses:
                waiting[index] = node.uses


class _Branch:
    """A node of the tree under construction."""

    def __init__(self) -> None:
        self.children: dict[Layer, _Branch] = {}

    def insert(self, path: Path) -> _Branch:
        branch = self
        for layer in path:
            branch = branch.children.setdefault(layer, _Branch())
        return branch

    def walk(self) -> Iterator[tuple[_Branch, Layer, _Branch, int]]:
        """Yield (branch, its layer, its parent, its depth) depth-first, without recursion."""
        stack = [(child, layer, self, 0) for layer, child in reversed(self.children.items())]
        while stack:
            branch, layer, parent, depth = stack.pop()
            yield branch, layer, parent, depth
            stack += [(c, inner, branch, depth + 1) for inner, c in reversed(branch.children.items())]
