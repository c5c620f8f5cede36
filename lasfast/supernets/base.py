"""The supernet owns the shared weights, and says which layers an architecture runs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from lasfast.core.checks import check_positive
from lasfast.execution.fused import run_fused
from lasfast.execution.interpret import leading, run_layer
from lasfast.execution.modules import add_module, is_made_on_the_way, make_module
from lasfast.execution.to_fx import Statistics, extract
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Path
from lasfast.nn.plain import is_plain
from lasfast.ops.process_ranks import ProcessRanks
from lasfast.spaces import Architecture, LayerAssignmentSpace, SearchSpace


class Supernet(nn.Module, ABC):
    """The base class of supernets.

    A subclass sets up what its `path` needs, calls `super().__init__(space, ...)`, and then
    `self.create_modules(path, ...)` with paths that together contain every layer at its full width.
    """

    def __init__(self, space: SearchSpace, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, in_channels=in_channels)
        self.space = space
        self.num_classes = num_classes
        self.in_channels = in_channels
        self._read_modules: set[str] = set()

    @abstractmethod
    def path(self, architecture: Architecture) -> Path:
        """Return the layers that an architecture runs, in order; ValueError for an invalid one."""

    def scaled(self) -> Iterable[Architecture]:
        """Give architectures that scale the largest one alike everywhere, from the smallest on.

        There are none of a family in which nothing says what that would be.
        """
        return ()

    def create_modules(self, *paths: Path) -> None:
        """Create the modules that the ops of these paths name, each at its greatest width.

        Existing modules are kept. The modules of opaque ops must exist already (`add_opaque`).
        """
        widest: dict[str, Op] = {}
        for op in (op for path in paths for layer in path for op in layer.ops):
            name = getattr(op, "module", None)
            if name is not None:
                widest[name] = _widest(widest.get(name, op), op)
        existing = dict(self.named_modules())
        for name, op in widest.items():
            if isinstance(op, layers.Opaque):
                _check_opaque(op, existing.get(name))
            elif name not in existing or is_made_on_the_way(existing[name]):
                add_module(self, name, make_module(op))
                self._read_modules.add(name)

    def add_opaque(self, name: str, module: nn.Module) -> None:
        """Add a module for `LayerBuilder.opaque`, under a dotted name, before `create_modules` is called."""
        add_module(self, name, module)

    def checked_modules(self) -> dict[str, nn.Module]:
        """Return the modules by name; ValueError where one has hooks or a forward that nobody would call.

        Layers read the weights of modules, and call none but opaque ones.
        """
        modules = dict(self.named_modules())
        for name in self._read_modules:
            module = modules[name]
            if not is_plain(module) or parametrize.is_parametrized(module):
                raise ValueError(
                    "supernet must have modules without hooks or parametrizations (of prune, weight_norm, "
                    f"spectral_norm), since it reads their weights and does not call them, got {name!r} with "
                    "some; remove them (prune.remove, remove_weight_norm, ...)"
                )
        return modules

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        """Run one sub-network, images [N, C, H, W] -> logits [N, num_classes].

        Batch norm behaves as torch's does: in training mode it uses batch statistics, and updates the
        supernet's running statistics; in evaluation mode it uses the running statistics.
        """
        run = self.layer_runner()
        path = self.path(architecture)
        path[0].check_input(tuple(x.shape[1:]))
        for layer in path:
            x = run(layer, x)
        return x

    def layer_runner(
        self,
        normalise: Callable[..., Tensor] = F.batch_norm,
        *,
        fused: bool = False,
        ranks: ProcessRanks | None = None,
    ) -> Callable[[Layer, Tensor], Tensor]:
        """Return the function of a layer and its input that `forward` runs each layer with.

        `normalise` has the signature of `torch.nn.functional.batch_norm`. With `fused`, lasfast's fused
        operators run the layer, with the same results but for rounding; the batch statistics are then those
        of the whole batch where it is spread over `ranks`.
        """
        modules = self.checked_modules()
        if fused:
            return lambda layer, x: run_fused(layer, x, modules, ranks)

        def batch_norm(op: layers.BatchNorm2d, value: Tensor) -> Tensor:
            owner = modules[op.module]
            assert isinstance(owner, nn.BatchNorm2d)
            mean, variance = owner.running_mean, owner.running_var
            assert mean is not None
            assert variance is not None
            return normalise(
                value,
                leading(mean, op.channels),
                leading(variance, op.channels),
                leading(owner.weight, op.channels),
                leading(owner.bias, op.channels),
                training=self.training,
                eps=op.eps,
            )

        return lambda layer, x: run_layer(layer, x, modules, batch_norm)

    def extract(
        self, architecture: Architecture, statistics: Statistics | None = None, *, fresh: bool = False
    ) -> fx.GraphModule:
        """Return the stand-alone network of an architecture, made of plain torch modules.

        Weights are copied, or initialised for training from scratch with `fresh=True`. `statistics` (from
        `Evaluator.statistics`) sets the batch norm buffers. The network can be pickled, scripted and
        exported, and then needs no lasfast.
        """
        return extract(self.path(architecture), self, statistics, fresh=fresh)

    def extracted_path(self, architecture: Architecture) -> Path:
        """Return the layers that `extract`'s network computes, by the names of its modules."""
        return self.path(architecture)

    def describe(self) -> dict[str, Any]:
        """Return JSON-able values that identify this supernet's structure."""
        structure = repr(sorted((name, tuple(p.shape)) for name, p in self.named_parameters()))
        return {
            "supernet": type(self).__name__,
            "space": self.space.describe(),
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "weights": hashlib.blake2b(structure.encode(), digest_size=8).hexdigest(),
        }


class LayerAssignmentSupernet(Supernet):
    """A supernet whose architectures say how many layers each group has (NIR, Eq. 1).

    An assignment runs the first a_g layers of each group g, so that assignments share prefixes within groups.
    A subclass defines the stem, the layers of a group and the head.

    Attributes:
        handcrafted_assignments: those that the network's authors chose.
        found_assignments: those that the NIR paper found, the deepest of each network and data set.
    """

    space: LayerAssignmentSpace
    handcrafted_assignments: tuple[Architecture, ...] = ()
    found_assignments: tuple[Architecture, ...] = ()

    def __init__(
        self, groups: int, max_layers: int | Sequence[int], *, num_classes: int, in_channels: int
    ) -> None:
        space = LayerAssignmentSpace(groups, max_layers)
        super().__init__(space, num_classes=num_classes, in_channels=in_channels)
        self._stem = self.stem_layers()
        self._groups = tuple(
            tuple(self.layer(group, index) for index in range(count))
            for group, count in enumerate(space.max_layers)
        )
        self._ends = tuple(self.group_end(group) for group in range(groups))
        self._head = self.head_layers()
        self.create_modules(self.path(space.deepest))

    @abstractmethod
    def stem_layers(self) -> Path:
        """Return the layers before the first group."""

    @abstractmethod
    def layer(self, group: int, index: int) -> Layer:
        """Return layer `index` of a group, both counted from 0; layer 0 changes the shape."""

    def group_end(self, group: int) -> Path:
        """Return the layers after the last layer of a group; there are none by default."""
        return ()

    @abstractmethod
    def head_layers(self) -> Path:
        """Return the layers after the last group, which end in the classifier."""

    def path(self, architecture: Architecture) -> Path:
        """Return the stem, the first a_g layers and the end of each group g, and the head."""
        architecture = self.space.validate(architecture)
        path = list(self._stem)
        for count, group, end in zip(architecture, self._groups, self._ends, strict=True):
            path += group[:count]
            path += end
        return (*path, *self._head)

    def scaled(self) -> Iterator[Architecture]:
        """Give the most even assignment of each depth, from the shallowest on."""
        return map(self.space.even, self.space.depths())

    def handcrafted(self, depth: int) -> Architecture:
        """Return the handcrafted assignment of a depth: the paper's if it has one, else the most even."""
        for architecture in self.handcrafted_assignments:
            if sum(architecture) == depth and architecture in self.space:
                return architecture
        return self.space.even(depth)


def _check_opaque(op: layers.Opaque, module: nn.Module | None) -> None:
    if module is None:
        raise ValueError(f"module {op.module!r} of an opaque op does not exist; call add_opaque before")
    count = sum(parameter.numel() for parameter in module.parameters())
    if count != op.params:
        raise ValueError(
            f"params of opaque module {op.module!r} must be its {count} weights, got {op.params}"
        )


def _widest(one: Op, other: Op) -> Op:
    """Return an op with the greatest of each size of two ops, which must be equal in everything else."""
    sizes = ["in_channels", "out_channels", "channels", "in_features", "out_features"]
    if all(
        isinstance(op, layers.Conv2d) and op.groups == op.in_channels == op.out_channels
        for op in (one, other)
    ):
        sizes.append("groups")  # depthwise convolutions have as many groups as channels
    wider: dict[str, Any] = {
        size: max(getattr(one, size), getattr(other, size)) for size in sizes if hasattr(one, size)
    }
    if isinstance(one, layers.Conv2d):
        wider["weight_bits"] = None  # the module is the same for all numbers of bits
    one, other = (replace(op, inputs=(), **wider) for op in (one, other))
    if one != other:
        raise ValueError(f"module {getattr(one, 'module', '')!r} is used in two ways: {one} and {other}")
    return one
