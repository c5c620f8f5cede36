"""Search spaces: which architectures there are, and how to sample, enumerate and count them. No torch."""

from lasfast.spaces.base import Architecture, SearchSpace
from lasfast.spaces.layer_assignment import LayerAssignmentSpace

__all__ = ["Architecture", "LayerAssignmentSpace", "SearchSpace"]
