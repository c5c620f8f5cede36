"""Search spaces say which architectures there are, and sample, vary, enumerate and count them. No torch."""

from lasfast.spaces.base import Architecture, SearchSpace
from lasfast.spaces.cell import CellSpace
from lasfast.spaces.choice import ChoiceSpace, VirtualLayer
from lasfast.spaces.layer_assignment import LayerAssignmentSpace
from lasfast.spaces.listed import ListedAssignmentSpace, ListedSpace
from lasfast.spaces.macro import MacroSpace
from lasfast.spaces.product import ProductSpace

__all__ = [
    "Architecture",
    "CellSpace",
    "ChoiceSpace",
    "LayerAssignmentSpace",
    "ListedAssignmentSpace",
    "ListedSpace",
    "MacroSpace",
    "ProductSpace",
    "SearchSpace",
    "VirtualLayer",
]
