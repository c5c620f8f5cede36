"""The architecture parameters of ITNAS (Ma et al. 2020): distributions over the operations of edges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lasfast.spaces import CellSpace
from lasfast.spaces.cell import INPUTS, KINDS
from lasfast.spaces.transition import LearnedCell

PREFIX = "architecture."  # of the parameters' names in a checkpoint
INITIAL = 1e-3  # standard deviation of initial parameters, as in DARTS' code


class CellWeights(nn.Module):
    """Parameters of one kind of cell.

    Outer edges, which read the cell's inputs, have logits of their own. The distribution of an inner edge
    (i, j) is the sum, over its predecessors (h, i), of share h times the predecessor's distribution times a
    transition matrix (Eq. 11). Rows of the matrices and the shares are softmaxes of parameters, which
    is how we keep to Eq. 10 and 12.

    Args:
        space: the cells.
        transition: False gives every edge logits of its own, as DARTS does.
        none: one more operation, that an edge does nothing, as DARTS has it.
    """

    def __init__(self, space: CellSpace, *, transition: bool, none: bool) -> None:
        super().__init__()
        self.edges = space.edges
        columns = len(space.operations) + none
        self.free_edges = [edge for edge in self.edges if edge[0] < INPUTS or not transition]
        self.inner_edges = [edge for edge in self.edges if edge not in self.free_edges]
        self.free = _parameter(len(self.free_edges), columns)
        self.transitions = nn.ParameterDict(
            {_name(edge): _parameter(edge[0], columns, columns) for edge in self.inner_edges}
        )
        self.attention = nn.ParameterDict({_name(edge): _parameter(edge[0]) for edge in self.inner_edges})

    def sample(self, temperature: float) -> Tensor:
        """Draw distributions [edges, columns], with Gumbel noise on the free edges (Eq. 5).

        A high temperature makes them even, one near 0 nearly one-hot. The noise is of torch's generator.
        """
        # The logarithm of an exponential variable is a Gumbel one, negated.
        noise = -torch.empty_like(self.free).exponential_().log()
        return self.complete(torch.softmax((self.free.log_softmax(1) + noise) / temperature, 1))

    def expected(self) -> Tensor:
        """Distributions [edges, columns] without noise."""
        return self.complete(self.free.softmax(1))

    def complete(self, free: Tensor) -> Tensor:
        """Distributions of all edges [edges, columns], node by node, from those of the free ones (Eq. 11)."""
        rows = dict(zip(self.free_edges, free, strict=True))
        for edge in self.inner_edges:
            source = edge[0]
            before = torch.stack([rows[earlier, source] for earlier in range(source)])
            transitions = self.transitions[_name(edge)].softmax(2)
            shares = self.attention[_name(edge)].softmax(0)
            rows[edge] = torch.einsum("h,hm,hmn->n", shares, before, transitions)
        return torch.stack([rows[edge] for edge in self.edges])

    def learned(self) -> LearnedCell:
        """The parameters as plain numbers, without noise."""
        free = _numbers(self.free.softmax(1))
        return LearnedCell(
            dict(zip(self.free_edges, free, strict=True)),
            {edge: _numbers(self.transitions[_name(edge)].softmax(2)) for edge in self.inner_edges},
            {edge: _numbers(self.attention[_name(edge)]) for edge in self.inner_edges},
        )


def load_cell_weights(
    space: CellSpace, tensors: Mapping[str, Tensor], *, transition: bool, none: bool
) -> dict[str, CellWeights]:
    """The parameters of each kind of cell, from those that a checkpoint of `ITNASTrainer` has.

    Raises:
        ValueError: it has those of other cells, or of other options.
    """
    with torch.device("meta"):  # no numbers are drawn
        cells = {kind: CellWeights(space, transition=transition, none=none) for kind in KINDS}
    module = nn.ModuleDict(cells)
    saved = {name.removeprefix(PREFIX): one for name, one in tensors.items() if name.startswith(PREFIX)}
    if {name: one.shape for name, one in module.state_dict().items()} != {
        name: one.shape for name, one in saved.items()
    }:
        raise ValueError("the saved architecture parameters are of another space, or of other options")
    module.load_state_dict(saved, assign=True)
    return cells


def _parameter(*sizes: int) -> nn.Parameter:
    return nn.Parameter(INITIAL * torch.randn(*sizes))


def _numbers(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().double().cpu().numpy(), np.float64)


def _name(edge: tuple[int, int]) -> str:
    return f"{edge[0]}-{edge[1]}"
