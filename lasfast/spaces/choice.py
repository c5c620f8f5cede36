"""The space of a choice for each layer, with virtual layers for what layers share (LayerNAS, section E.3)."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lasfast.core.checks import as_int, as_ints
from lasfast.spaces.base import Architecture, stripped
from lasfast.spaces.product import ProductSpace

Option: TypeAlias = Hashable
"""One of the things that a layer may be: a string, an int, or a tuple of these."""


@dataclass(frozen=True)
class VirtualLayer:
    """A decision that several layers share, such as the width that a shortcut needs on both of its ends.

    It stands before the layers that it decides for, so that a layerwise search settles it first.

    Args:
        options: the values that the layers may share.
        layers: how many of the following layers share the decision.
    """

    options: tuple[Option, ...]
    layers: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _as_options("options", self.options))
        as_int("layers", self.layers, minimum=1)

    @classmethod
    def common(cls, *options: Iterable[Option]) -> VirtualLayer:
        """Return the virtual layer between the options that all layers have, in the first layer's order.

        `VirtualLayer.common([32, 64, 96], [64, 96, 128])` decides between 64 and 96 for two layers.

        Raises:
            ValueError: no option is common to all layers.
        """
        if not options:
            raise ValueError("options must be given for at least one layer, got none")
        lists = [tuple(one) for one in options]
        shared = tuple(option for option in lists[0] if all(option in one for one in lists))
        if not shared:
            raise ValueError(f"options must have one that all layers share, got {lists}")
        return cls(shared, len(lists))


class ChoiceSpace(ProductSpace):
    """A space in which each layer takes one of its own options, independently of the others.

    An architecture holds, for each layer, the number of its option, counted from 0; virtual layers count as
    layers. The text form joins the options' names, `5x96-3x64`, or their numbers where they have no names.

    Args:
        layers: for each layer, the number of its options, the options themselves, or a `VirtualLayer`. An
            option is a string of letters, digits and `_ . + :`, an int, or a tuple of these (named `5x96`).
        largest: the architecture whose sub-network has all weights, if there is one.

    Attributes:
        given: the layers as they were given.
        options: for each layer, the numbers of its options.
        layers: for each layer, its options.
        names: for each layer, the names of its options.
    """

    def __init__(
        self,
        layers: Iterable[int | Sequence[Option] | VirtualLayer],
        *,
        largest: Iterable[int] | None = None,
    ) -> None:
        if isinstance(layers, str) or not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a sequence such as [5, 25, 125], got {layers!r}")
        self.given = tuple(layers)
        if not self.given:
            raise ValueError("layers must have at least one layer, got none")
        self.layers = tuple(_options_of(index, layer) for index, layer in enumerate(self.given))
        self.names = tuple(tuple(map(_name, options)) for options in self.layers)
        self.options = tuple(range(len(options)) for options in self.layers)
        self._decided_by = self._deciding()
        self._largest = None if largest is None else self.validate(largest)

    def __repr__(self) -> str:
        return f"ChoiceSpace({list(map(len, self.options))})"

    def validate(self, architecture: Iterable[int]) -> Architecture:
        """Return the architecture as a tuple of ints.

        Raises:
            TypeError: not a sequence of ints.
            ValueError: not one number per layer, or one that is no option of its layer.
        """
        chosen = as_ints("architecture", architecture)
        if len(chosen) != len(self.options):
            raise ValueError(f"architecture must have {len(self.options)} layers, got {chosen}")
        for layer, (option, options) in enumerate(zip(chosen, self.options, strict=True)):
            if option not in options:
                raise ValueError(
                    f"architecture {chosen}: layer {layer} must take option 0 to {len(options) - 1}"
                )
        return chosen

    def largest(self) -> Architecture | None:
        """Return the architecture whose sub-network has all weights; None where no single one has."""
        return self._largest

    def chosen(self, architecture: Iterable[int]) -> tuple[tuple[Option, ...], ...]:
        """Return, for each layer that is not virtual, its own option and those it shares with other layers.

        In `ChoiceSpace([VirtualLayer((64, 96), 2), ["3x3", "5x5"], ["3x3", "5x5"]])`, the layers of (1, 0, 1)
        take `(("3x3", 96), ("5x5", 96))`.
        """
        numbers = self.validate(architecture)
        taken = [options[number] for options, number in zip(self.layers, numbers, strict=True)]
        return tuple([tuple([taken[index] for index in indices]) for indices in self._decided_by])

    def _deciding(self) -> list[tuple[int, ...]]:
        """Return, for each layer that is not virtual, its index and those of the virtual ones it obeys."""
        total = sum(not isinstance(layer, VirtualLayer) for layer in self.given)
        indices: list[tuple[int, ...]] = []
        shared: list[tuple[int, int]] = []  # for each virtual layer: where its reach ends, and its index
        for index, layer in enumerate(self.given):
            if not isinstance(layer, VirtualLayer):
                indices.append((index, *(virtual for end, virtual in shared if len(indices) < end)))
                continue
            follow = total - len(indices)
            if layer.layers > follow:
                raise ValueError(
                    f"layers: virtual layer {index} decides for {layer.layers} layers, but {follow} follow"
                )
            shared.append((len(indices) + layer.layers, index))
        return indices

    def format(self, architecture: Iterable[int]) -> str:
        """Return the names of the options, joined by '-'."""
        chosen = self.validate(architecture)
        return "-".join(names[option] for names, option in zip(self.names, chosen, strict=True))

    def parse(self, text: str) -> Architecture:
        """Read the text form.

        Raises:
            TypeError: not a string.
            ValueError: not one name per layer, or one that no option of its layer has.
        """
        example = "-".join(names[0] for names in self.names)
        parts = stripped(text, example).split("-")
        if len(parts) != len(self.names):
            raise ValueError(
                f"text must be an option for each of the {len(self.names)} layers joined by '-', such as "
                f"{example!r}, got {text!r}"
            )
        for layer, (part, names) in enumerate(zip(parts, self.names, strict=True)):
            if part not in names:
                raise ValueError(
                    f"text {text!r}: layer {layer} must be one of {', '.join(names)}, got {part!r}"
                )
        return tuple(names.index(part) for part, names in zip(parts, self.names, strict=True))

    def describe(self) -> dict[str, Any]:
        """Return name and layers: numbers of options, their names, or a virtual layer's names and reach."""
        layers: list[Any] = []
        for given, names in zip(self.given, self.names, strict=True):
            if isinstance(given, VirtualLayer):
                layers.append({"virtual": list(names), "layers": given.layers})
            else:
                layers.append(list(names) if isinstance(given, Iterable) else len(names))
        return {"name": "ChoiceSpace", "layers": layers}


def _options_of(index: int, layer: int | Sequence[Option] | VirtualLayer) -> tuple[Option, ...]:
    if isinstance(layer, VirtualLayer):
        return layer.options
    if isinstance(layer, Iterable):
        return _as_options(f"layers[{index}]", layer)
    return tuple(range(as_int(f"layers[{index}]", layer, minimum=1)))


def _as_options(name: str, options: object) -> tuple[Option, ...]:
    """Return the options as a tuple, checked: each has a name, and no two have the same."""
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise TypeError(f"{name} must be a sequence of options such as ['3x3', '5x5'], got {options!r}")
    names = [_name(option) for option in options]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{name} must be options with different names, at least one, got {options!r}")
    return tuple(options)


def is_option_name(text: str) -> bool:
    """Return whether an option of a `ChoiceSpace` may have this name."""
    return re.fullmatch(r"[A-Za-z0-9_.+:]+", text) is not None


def _name(option: Option) -> str:
    """Return the name of an option in an architecture's text form."""
    if isinstance(option, tuple) and option:
        return "x".join(map(_name, option))
    if isinstance(option, bool) or not isinstance(option, str | int):
        raise TypeError(f"an option must be a string, an int or a tuple of these, got {option!r}")
    if not is_option_name(str(option)):
        raise ValueError(f"an option's name must be of letters, digits and _ . + : alone, got {option!r}")
    return str(option)
