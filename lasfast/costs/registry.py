"""The costs by the names that constraints and the command line use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from lasfast.constraints import Cost, NamedCost
from lasfast.costs.bitops import path_bitops
from lasfast.costs.flops import HasPath, model_input, path_flops
from lasfast.costs.latency import LatencyTable
from lasfast.costs.memory import path_memory
from lasfast.costs.params import path_params
from lasfast.ir.layers import Path, Shape
from lasfast.spaces import Architecture

PathCost = Callable[[Path, Shape], float]
"""A function of a path and the shape (channels, height, width) of one image that returns a cost."""

COSTS: dict[str, PathCost] = {
    "flops": path_flops,
    "params": lambda path, _: path_params(path),
    "bitops": path_bitops,
    "memory": path_memory,
}


def register(name: str, cost: PathCost) -> None:
    """Add a cost that constraints can name, as they name `flops`.

    Raises:
        ValueError: the name is taken, or is no identifier, optionally followed by `@where`.
    """
    if not name.partition("@")[0].isidentifier():
        raise ValueError(f"name must be an identifier such as 'energy' or 'latency@cpu', got {name!r}")
    if name in COSTS:
        raise ValueError(f"name must not be that of another cost, got {name!r}")
    COSTS[name] = cost


def functions(
    supernet: HasPath, input_size: tuple[int, int], tables: Iterable[LatencyTable] = ()
) -> dict[str, Cost]:
    """Return the functions of an architecture that constraints and searchers take, by name.

    There is one for each registered cost and one, `latency@NAME`, for each table:
    `Constraint("flops<=330M", costs.functions(supernet, (32, 32)))`.

    Args:
        supernet: the supernet whose architectures the functions take.
        input_size: (height, width) of the images.
        tables: tables of latencies.
    """
    shape = model_input(supernet, input_size)

    def of(cost: PathCost, architecture: Architecture) -> float:
        return cost(supernet.path(architecture), shape)

    known: dict[str, PathCost] = {**COSTS, **{f"latency@{table.name}": table for table in tables}}
    return {name: NamedCost(name, partial(of, cost)) for name, cost in known.items()}
