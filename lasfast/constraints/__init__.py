"""Constraints bound what an architecture may cost, in text such as `flops<=330M,params<=4M`. No torch."""

from lasfast.constraints.bounds import Bound, parse_bounds, units_of
from lasfast.constraints.constraint import Constraint
from lasfast.constraints.cost import Cost, NamedCost, UnknownCostError, describe_function, known_cost
from lasfast.constraints.sampling import BoundedSampler

__all__ = [
    "Bound",
    "BoundedSampler",
    "Constraint",
    "Cost",
    "NamedCost",
    "UnknownCostError",
    "describe_function",
    "known_cost",
    "parse_bounds",
    "units_of",
]
