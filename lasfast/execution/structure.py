"""Remembers the modules that a graph was read from, to tell whether it still is what they compute."""

from __future__ import annotations

from collections.abc import Collection
from operator import is_

from torch import nn

from lasfast.nn.plain import is_plain


class Structure:
    """The modules that a graph was read from, as they were then.

    A graph has their attributes (strides, temperatures, probabilities) and their submodules as they were
    while it was read, and calls no hooks. Where any of this has changed since, it is no longer what they
    compute.

    Args:
        network: the root; its own hooks are called.
        called: names of modules that the graph calls as they are, now and later.
    """

    def __init__(self, network: nn.Module, called: Collection[str]) -> None:
        self._parts = [
            _Part(module, is_root=not name)
            for name, module in network.named_modules()
            if not any(f"{name}.".startswith(f"{one}.") for one in called)
        ]

    def holds(self) -> bool:
        """Return whether the modules are as they were."""
        return all(map(_Part.holds, self._parts))


class _Part:
    """One module: its class, its own attributes, its submodules, which parameters it has, and no hooks."""

    def __init__(self, module: nn.Module, *, is_root: bool) -> None:
        self.module, self.kind, self.is_root = module, type(module), is_root
        attributes = vars(module)
        self.count = len(attributes)
        self.names = [name for name in attributes if _is_own(name)]
        self.values = [attributes[name] for name in self.names]
        self.children = list(module._modules.values())
        self.lacks = [value is None for value in module._parameters.values()]

    def holds(self) -> bool:
        """Return whether the module is as it was; at every call of a network, so that it has to be fast."""
        module = self.module
        attributes, children = module.__dict__, module._modules
        return (
            type(module) is self.kind
            and len(attributes) == self.count
            and len(children) == len(self.children)
            and (not self.names or all(map(is_, map(attributes.get, self.names), self.values)))
            and (not children or all(map(is_, children.values(), self.children)))
            and (
                not (self.lacks or module._parameters)
                or [value is None for value in module._parameters.values()] == self.lacks
            )
            and (self.is_root or is_plain(module))
        )


def _is_own(name: str) -> bool:
    """Return whether an attribute is of a module's class, not one that PyTorch keeps for every module."""
    return not name.startswith("_") and name != "training"
