"""The tracer of networks: `torch.fx`, with lasfast's own modules and others on demand as single nodes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx, nn

from lasfast.nn import PACT, ConvBNAct, SlicedBatchNorm2d, SlicedConv2d, SlicedLinear

LEAVES = (ConvBNAct, PACT, SlicedBatchNorm2d, SlicedConv2d, SlicedLinear)


class Tracer(fx.Tracer):
    """Traces a network without looking into lasfast's modules, nor into those that `opaque` names.

    `part` is the dotted name of the innermost module of the network's own that it is in; after an error, of
    the one in which that was. Each node's `meta["part"]` says the same of where the node is.
    """

    def __init__(self, opaque: Collection[str] = ()) -> None:
        super().__init__()
        self.opaque = opaque
        self.part = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module becomes one node."""
        is_leaf = module_qualified_name in self.opaque or type(m) in LEAVES
        return is_leaf or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Call a module, and note which one is entered."""
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            return super().call_module(m, forward, args, kwargs)
        around, self.part = self.part, name
        result = super().call_module(m, forward, args, kwargs)
        self.part = around
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Create a node, and note where it is."""
        node = super().create_node(*args, **kwargs)
        node.meta["part"] = self.part
        return node
