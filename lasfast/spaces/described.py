"""Search spaces made of their descriptions, as the files of a search have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lasfast.spaces.base import SearchSpace
from lasfast.spaces.cell import CellSpace
from lasfast.spaces.choice import ChoiceSpace, VirtualLayer
from lasfast.spaces.layer_assignment import LayerAssignmentSpace
from lasfast.spaces.macro import MacroSpace


def space_of_description(description: Mapping[str, Any]) -> SearchSpace | None:
    """Return the space that `describe` of a space has described, whose text forms are the same.

    None is returned for a space of another kind, such as one of the user's own, and where parts are missing.
    """
    make = _KINDS.get(description.get("name", ""))
    try:
        return None if make is None else make(description)
    except KeyError:
        return None


def _choices(description: Mapping[str, Any]) -> ChoiceSpace:
    return ChoiceSpace(
        VirtualLayer(tuple(layer["virtual"]), layer["layers"]) if isinstance(layer, Mapping) else layer
        for layer in description["layers"]
    )


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], SearchSpace]] = {
    "LayerAssignmentSpace": lambda one: LayerAssignmentSpace(one["groups"], one["max_layers"]),
    "CellSpace": lambda one: CellSpace(one["nodes"], one["operations"]),
    "ChoiceSpace": _choices,
    "MacroSpace": lambda one: MacroSpace(one["repeats"], one["layers"][0][1:]),
}
