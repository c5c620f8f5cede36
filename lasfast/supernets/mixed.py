"""The mixed network that differentiable search trains: each edge of a `CellNet` runs all operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.ir import layers
from lasfast.ir.layers import Layer
from lasfast.spaces.cell import INPUTS
from lasfast.supernets.cells import CellNet, CellParts


def run_mixed(
    supernet: CellNet, run: Callable[[Layer, Tensor], Tensor], images: Tensor, weights: Mapping[str, Tensor]
) -> Tensor:
    """Run the network in which each edge is the weighted sum of its operations (DARTS, Eq. 2).

    A node is the sum of all edges that enter it. A batch norm without scale and shift follows each pooling,
    so that at the start no operation's output is larger than another's (as in DARTS' code).

    Args:
        supernet: the supernet, which owns the weights of all operations.
        run: the function that runs a layer (`Supernet.layer_runner`).
        images: [N, C, H, W].
        weights: [edges, operations] of the "normal" and of the "reduction" cells, in the order of
            `CellSpace.edges` and `CellSpace.operations`; a further column (of `none`) has no effect.

    Returns:
        Logits [N, num_classes].
    """
    value = run(supernet.first, images)
    carried, previous = value.split([supernet.channels, value.shape[1] - supernet.channels], 1)
    for parts in supernet.parts:
        kind = "reduction" if parts.shape.reduces else "normal"
        first, second = carried, run(parts.previous, previous)
        carry = None if parts.carry is None else run(parts.carry, previous)
        previous = _run_cell(supernet, parts, run, [first, second], weights[kind])
        carried = previous if carry is None else carry
    for layer in supernet.last:
        previous = run(layer, previous)
    return previous


def _run_cell(
    supernet: CellNet,
    parts: CellParts,
    run: Callable[[Layer, Tensor], Tensor],
    nodes: list[Tensor],
    weights: Tensor,
) -> Tensor:
    totals: dict[int, Tensor] = {}
    for (source, node), edge, shares in zip(supernet.space.edges, parts.edges, weights, strict=True):
        for layer, share in zip(edge, shares, strict=False):
            y = nodes[source] if layer is None else run(layer, nodes[source])
            if layer is not None and isinstance(layer.ops[-1], layers.Pool):
                y = F.batch_norm(y, None, None, training=True)
            term = share * y
            totals[node] = totals[node] + term if node in totals else term
        if source == node - 1:  # the node's last edge
            nodes.append(totals[node])
    return torch.cat(nodes[INPUTS:], 1)
