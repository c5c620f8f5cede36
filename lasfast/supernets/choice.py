"""The base class of supernets whose layers each take one of several options."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from lasfast.ir.layers import Path
from lasfast.spaces import Architecture, ChoiceSpace
from lasfast.spaces.choice import Option, VirtualLayer
from lasfast.supernets.base import Supernet

Part = tuple[Path, int]
"""Consecutive layers (none for a skip), and the number of channels of their output."""


class ChoiceSupernet(Supernet):
    """A supernet over a `ChoiceSpace`, whose architectures choose an option for each layer.

    A subclass defines the layers of the `stem`, of an option (`choice`) and of the `head`; it sets up what
    these need before it calls `super().__init__`. Options that differ only in width name the same modules,
    and read slices of their weights. The last option of a virtual layer must be the widest.

    Attributes:
        published: architectures of the space that papers print, in the text form, by name.
    """

    space: ChoiceSpace
    published: Mapping[str, str] = MappingProxyType({})

    def __init__(self, space: ChoiceSpace, *, num_classes: int, in_channels: int) -> None:
        super().__init__(space, num_classes=num_classes, in_channels=in_channels)
        # Searchers ask for the paths of thousands of architectures, so records are made once.
        self._stem_part = self.stem()
        self._parts: dict[tuple[int, tuple[Option, ...], int], Part] = {}
        self._heads: dict[int, Path] = {}
        self.create_modules(*map(self.path, _covering(space)))

    @abstractmethod
    def stem(self) -> Part:
        """Return the layers before those of the space, which read the images."""

    @abstractmethod
    def choice(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        """Return the layers that an option stands for.

        Args:
            index: the number of the layer of the space, from 0; virtual ones do not count.
            taken: the layer's own option, then those of the virtual layers above it (`ChoiceSpace.chosen`).
            channels: the number of channels of the layer's input.
        """

    @abstractmethod
    def head(self, channels: int) -> Path:
        """Return the layers after those of the space, which read `channels` channels and end in logits."""

    def path(self, architecture: Architecture) -> Path:
        """Return the stem, the layers of the architecture's options, and the head."""
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
    """Yield architectures that together have every option of every layer at its widest."""
    virtual = [isinstance(layer, VirtualLayer) for layer in space.given]
    for number in range(max(map(len, space.options))):
        yield tuple(
            options[-1] if shared else options[min(number, len(options) - 1)]
            for options, shared in zip(space.options, virtual, strict=True)
        )
