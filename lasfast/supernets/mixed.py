"""All operations of all edges of a `CellNet` at once, weighted: what differentiable search trains."""

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
    """Run a network whose edges give the weighted sum of their operations (DARTS, Eq. 2).

    A node is the sum of all edges that enter it. Poolings are normalised by their batch's statistics,
    without a scale and shift, so that no operation is larger than another from the start (as in DARTS'
    code).

    Args:
        supernet: owns the weights of all operations.
        run: runs a layer (`Supernet.layer_runner`).
        images: [N, C, H, W].
        weights: [edges, operations] of the "normal" and of the "reduction" cells, in the order of
            `CellSpace.edges` and `CellSpace.operations`; further columns (of `none`) count for nothing.

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
        if source == node - 1:  # its last edge
            nodes.append(totals[node])
    return torch.cat(nodes[INPUTS:], 1)
