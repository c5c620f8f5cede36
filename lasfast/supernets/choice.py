"""Supernets whose layers each take one of several options."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from lasfast.ir.layers import Path
from lasfast.spaces import Architecture, ChoiceSpace
from lasfast.spaces.choice import Option, VirtualLayer
from lasfast.supernets.base import Supernet

Part = tuple[Path, int]
"""Layers that follow each other, none for a skip, and how many channels leave them."""


class ChoiceSupernet(Supernet):
    """A supernet over a `ChoiceSpace`: each of its layers is made of what the architecture takes there.

    A subclass sets up what these need, then calls `super().__init__`: `stem` gives what comes before the
    layers of the space, `choice` what an option stands for, `head` what comes after. Options that differ in
    width alone name the same modules, and read slices of them; the last option of a virtual layer must be the
    widest.

    Attributes:
        published: architectures of the space that papers print, in their text form, by name.
    """

    space: ChoiceSpace
    published: Mapping[str, str] = MappingProxyType({})

    def __init__(self, space: ChoiceSpace, *, num_classes: int, in_channels: int) -> None:
        super().__init__(space, num_classes=num_classes, in_channels=in_channels)
        # Searchers ask for the paths of thousands of architectures: records are made once.
        self._stem_part = self.stem()
        self._parts: dict[tuple[int, tuple[Option, ...], int], Part] = {}
        self._heads: dict[int, Path] = {}
        self.create_modules(*map(self.path, _covering(space)))

    @abstractmethod
    def stem(self) -> Part:
        """Return what runs first, on images of `in_channels` channels."""

    @abstractmethod
    def choice(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        """Return what layer `index` (virtual ones not counted) runs on a value of `channels` channels.

        Args:
            index: which layer, from 0.
            taken: its own option, then what virtual layers decided for it (`ChoiceSpace.chosen`).
            channels: of the layer's input.
        """

    @abstractmethod
    def head(self, channels: int) -> Path:
        """Return what runs last, the classifier at its end, on a value of `channels` channels."""

    def path(self, architecture: Architecture) -> Path:
        """Return stem, what the architecture takes of each layer, head."""
        first, channels = self._stem_part
        path = list(first)
        for index, taken in enumerate(self.space.chosen(architecture)):
            key = (index, taken, channels)
            if key not in self._parts:
                self._parts[key] = self.choice(*key)
            part, channels = self._parts[key]
            path += part
        if channels not in self._heads:
            self._heads[channels] = self.head(channels)
        return (*path, *self._heads[channels])


def _covering(space: ChoiceSpace) -> Iterator[Architecture]:
    """Architectures that have every option of every layer, among the widest of what layers share."""
    virtual = [isinstance(layer, VirtualLayer) for layer in space.given]
    for number in range(max(map(len, space.options))):
        yield tuple(
            options[-1] if shared else options[min(number, len(options) - 1)]
            for options, shared in zip(space.options, virtual, strict=True)
        )
