"""Search spaces made of their descriptions, as the files of a search have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lasfast.spaces.base import SearchSpace
from lasfast.spaces.cell import CellSpace
from lasfast.spaces.choice import ChoiceSpace, VirtualLayer
from lasfast.spaces.layer_assignment import LayerAssignmentSpace


def space_of_description(description: Mapping[str, Any]) -> SearchSpace | None:
    """Return the space that `describe` of a space has described, whose text forms are the same.

    None is returned for a space of another kind, such as one of the user's own.
    """
    if description.get("name") == "LayerAssignmentSpace":
        return LayerAssignmentSpace(description["groups"], description["max_layers"])
    if description.get("name") == "CellSpace":
        return CellSpace(description["nodes"], description["operations"])
    if description.get("name") == "ChoiceSpace":
        return ChoiceSpace(
            VirtualLayer(tuple(layer["virtual"]), layer["layers"]) if isinstance(layer, Mapping) else layer
            for layer in description["layers"]
        )
    return None
