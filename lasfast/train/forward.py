"""Forward passes compute the logits of paths: by which layers, whose operators, in which precision."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lasfast.execution import accelerate
from lasfast.execution.fused import MOMENTUM, run_fused
from lasfast.execution.interpret import evaluation_mode, run_layer
from lasfast.execution.modules import add_module, make_module, move_like
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Path
from lasfast.ir.prefix_tree import ROOT, PrefixTree
from lasfast.runtime import compiled, kernels
from lasfast.runtime.autotune import fastest
from lasfast.runtime.distributed import World
from lasfast.runtime.precision import autocast
from lasfast.runtime.seeds import torch_seed
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.objective import losses
from lasfast.train.regularize import (
    AUXILIARY,
    RATE,
    DropPathRate,
    auxiliary_head,
    auxiliary_place,
    check_classifier,
    is_classifier,
    with_drop_path,
    with_dropout,
)
from lasfast.train.settings import TrainSettings
from lasfast.train.synchronized import SynchronizedNetwork, batch_norm, opaque_batch_norm
from lasfast.train.update import REMEMBERED, Used, used_parts


class Forward(ABC):
    """Runs paths of a module by lasfast's operators or by PyTorch's: `operators` is "native" or "torch".

    Each process of `world` runs a part of the batch. Batch norm takes the statistics of what the processes of
    `norm_world` run: the whole batch, or this process's part (`TrainSettings.batch_norm`).
    """

    def __init__(self, module: nn.Module, settings: TrainSettings, world: World) -> None:
        self.parameters = [one for one in module.parameters() if one.requires_grad]
        if not self.parameters:
            raise ValueError(f"the {type(module).__name__} has no parameters to train")
        self.module, self.settings, self.world = module, settings, world
        self.norm_world = world if settings.batch_norm == "global" else World()
        self.device = self.parameters[0].device
        self.memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        if settings.channels_last:
            module.to(memory_format=self.memory_format)
        self.operators = first_operators(settings, self.device)
        if world.size > 1 and world.any(self.operators == "torch")[0]:
            self.operators = "torch"  # say, where one process lacks the compiled module
        self._chosen = settings.operators != "auto"

    def begin(self) -> None:  # noqa: B027
        """Prepare for a step: the module's parts may be others than in the last one."""

    def __call__(self, images: Tensor, paths: Sequence[Any]) -> list[Tensor]:
        """Return the logits [N, classes] of each path, in the precision of the settings."""
        # One context an update, since autocast keeps its bf16 copies of the weights until it is left.
        with autocast(self.device, self.settings.precision):
            return self.logits(images, paths)

    @abstractmethod
    def logits(self, images: Tensor, paths: Sequence[Any]) -> list[Tensor]:
        """Return the logits of each path; what they have in common may run once."""

    @abstractmethod
    def classes(self, images: Tensor) -> int:
        """Return the number of classes that logits have, for images such as these."""

    def used(self, paths: Sequence[Any]) -> Used:
        """Return the weights that these paths read, and which parts of each: all of all, here."""
        return [(parameter, [()]) for parameter in self.parameters]

    def choose_operators(self, images: Tensor, labels: Tensor, paths: Sequence[Any], seed: int) -> None:
        """Take the operators that train `paths` faster on this batch, once, where the settings leave it open.

        Small networks may be quicker with PyTorch's.
        """
        if self._chosen or self.operators != "native":
            return
        self._chosen = True
        before = [one.detach().clone() for one in self.module.buffers()]

        def trained_by(operators: str) -> Callable[[], None]:
            def run() -> None:
                self.operators = operators
                losses(self(images, paths), labels).sum().backward()

            return run

        weights = sum(one.numel() for one in self.parameters)
        key = (
            f"train {type(self.module).__name__} of {weights} weights on {tuple(images.shape)} in "
            f"{self.settings.precision}, {torch.get_num_threads()} threads"
        )
        if self.world.size > 1:
            key += f", {self.world.size} ranks"
        with torch_seed(seed, self.device):
            ways = {name: trained_by(name) for name in ("native", "torch")}
            self.operators = fastest(key, self.device, ways, self.world.share)
        with torch.no_grad():
            for buffer, value in zip(self.module.buffers(), before, strict=True):
                buffer.copy_(value)


class SupernetForward(Forward):
    """Runs paths of a supernet, layer by layer."""

    def __init__(self, supernet: Supernet, settings: TrainSettings, world: World) -> None:
        super().__init__(supernet, settings, world)
        self.supernet = supernet
        if settings.dropout is not None:
            check_classifier(supernet.path(supernet.space.sample(random.Random(0)))[-1])
        self._normalise = _normalise(self.norm_world)
        self._runners: dict[str, Callable[[Layer, Tensor], Tensor]] = {}

    def begin(self) -> None:
        """Look up the modules of layers anew."""
        self._runners.clear()

    def logits(self, images: Tensor, paths: Sequence[Architecture]) -> list[Tensor]:
        """Run each distinct prefix of the paths once: its gradient is the sum of theirs."""
        tree = _prefix_tree(tuple(self.supernet.path(path) for path in paths))
        tree.shapes(tuple(images.shape[1:]))  # raises an error where the images do not fit a layer
        if self.norm_world.size > 1:
            _check_batch_norms(self.supernet, (node.layer for node in tree.nodes))
        run = self.runner()
        outputs = {ROOT: images}
        for number, node in enumerate(tree.nodes):
            outputs[number] = run(node.layer, outputs[node.parent])
        return [outputs[leaf] for leaf in tree.leaves]

    def classes(self, images: Tensor) -> int:
        """Return the supernet's number of classes."""
        return self.supernet.num_classes

    def used(self, paths: Sequence[Architecture]) -> Used:
        """Return the weights that the layers of these paths read, and which parts of each."""
        read = (layer for path in paths for layer in self.supernet.path(path))
        return used_parts(dict(self.supernet.named_modules()), read)

    def runner(self) -> Callable[[Layer, Tensor], Tensor]:
        """Return what runs a layer by the operators at hand."""
        if self.operators not in self._runners:
            fused, dropout = self.operators == "native", self.settings.dropout
            run = self.supernet.layer_runner(self._normalise, fused=fused, ranks=self.norm_world)

            def run_with_dropout(layer: Layer, x: Tensor) -> Tensor:
                return run(with_dropout(layer, dropout) if is_classifier(layer) else layer, x)

            self._runners[self.operators] = run if dropout is None else run_with_dropout
        return self._runners[self.operators]


class NetworkForward(Forward):
    """Runs one network: accelerated where that is wanted and it can be traced, or as it is.

    Several processes run its layers by the fused operators where these layers are known, as `path`. Others'
    networks run as they are, by PyTorch's operators, which `SynchronizedNetwork` watches. Layers run one by
    one, too, where settings change them: dropout, drop path, an auxiliary head.

    Args:
        network: what is trained.
        settings: how.
        world: the processes.
        path: the layers that the network computes by its modules, where they are known.
        image_shape: that of one image, (C, H, W), for an auxiliary head.

    Attributes:
        network: the network alone; `module` has the auxiliary head as well.
        rate: the probability of drop path at present.
        auxiliary: the logits of the auxiliary head for the last batch; None without a head.

    Raises:
        ValueError: settings change layers that are not known, or that do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainSettings,
        world: World,
        path: Path | None = None,
        image_shape: tuple[int, ...] = (),
    ) -> None:
        self.network, self.path = network, path
        self.rate = DropPathRate()
        self.auxiliary: Tensor | None = None
        self._head: Layer | None = None
        module = network
        self._regularized = _regularized(path, settings)
        if settings.standalone_auxiliary:
            assert path is not None
            self._head = auxiliary_head(path, image_shape)
            module = _Pair(network, self._head)
        super().__init__(module, settings, world)
        self._tree = None if path is None else PrefixTree([path])
        self._fused: Callable[[Tensor], Tensor] = network
        self._plain: Callable[[Tensor], Tensor] = network
        if self._regularized is not None:
            if self.norm_world.size > 1:
                _check_batch_norms(network, self._regularized)
            _check_momentum(network, self._regularized)
            self._fused, self._plain = (
                self._by_layers(self._regularized, fused=fused) for fused in (True, False)
            )
            return
        together = self.norm_world.size > 1
        if together:
            self._plain = SynchronizedNetwork(self.norm_world, network)
        if self.operators == "native":
            try:
                self._fused = self._by_layers(path, fused=True) if together else accelerate(network)
            except ValueError:
                if settings.operators == "native":
                    raise
                self.operators = "torch"

    def logits(self, images: Tensor, paths: Sequence[Any]) -> list[Tensor]:
        """Run the network; there is one path."""
        if self._tree is not None:
            self._tree.shapes(tuple(images.shape[1:]))  # raises an error where the images do not fit a layer
        return [self._fused(images) if self.operators == "native" else self._plain(images)]

    def classes(self, images: Tensor) -> int:
        """Return the number of the network's classes."""
        with evaluation_mode(self.network), torch.no_grad():
            return int(self.network(images[:1].to(self.device)).shape[1])

    def _by_layers(self, path: Path | None, *, fused: bool) -> Callable[[Tensor], Tensor]:
        """Return what runs the network's layers, with the statistics of all processes' images."""
        network = self.network
        if self.norm_world.size > 1 and (path is None or opaque_batch_norm(network, path) is not None):
            raise ValueError(
                "operators must be 'auto' or 'torch' where several processes train a network whose batch "
                "norms are not among known layers (path), got 'native'"
            )
        assert path is not None
        modules: dict[str, Any] = {**dict(network.named_modules()), RATE: self.rate}
        if self._head is not None:
            modules |= {name: one for name, one in self.module.named_modules() if name.startswith(AUXILIARY)}
        every = path if self._head is None else (*path, self._head)
        norms = [
            modules[op.module] for layer in every for op in layer.ops if isinstance(op, layers.BatchNorm2d)
        ]
        place = auxiliary_place(path) if self._head is not None else None
        normalise = _normalise(self.norm_world)

        def run_norm(op: layers.BatchNorm2d, x: Tensor) -> Tensor:
            norm = modules[op.module]
            buffers = norm.running_mean, norm.running_var, norm.weight, norm.bias
            return normalise(x, *buffers, training=network.training, momentum=MOMENTUM, eps=op.eps)

        def run_one(layer: Layer, x: Tensor) -> Tensor:
            return (
                run_fused(layer, x, modules, self.norm_world)
                if fused
                else run_layer(layer, x, modules, run_norm)
            )

        def run(x: Tensor) -> Tensor:
            for norm in norms:
                assert norm.num_batches_tracked is not None
                norm.num_batches_tracked.add_(1)
            for number, layer in enumerate(path):
                x = run_one(layer, x)
                if number == place and self._head is not None:
                    self.auxiliary = run_one(self._head, x)
            return x

        return run


class _Pair(nn.Module):
    """A network and its auxiliary head, whose weights are trained together."""

    def __init__(self, network: nn.Module, head: Layer) -> None:
        super().__init__()
        self.network = network
        for op in head.ops:
            if hasattr(op, "module"):
                add_module(self, op.module, make_module(op))
        move_like(self.get_submodule(AUXILIARY), network)


def _normalise(world: World) -> Callable[..., Tensor]:
    """Return the function that normalizes a batch, of which each process of a world has a part."""
    return F.batch_norm if world.size == 1 else partial(batch_norm, world)


def _regularized(path: Path | None, settings: TrainSettings) -> Path | None:
    """Return the layers as the settings change them; None where they leave all as it is."""
    asked = {
        "dropout": settings.dropout is not None,
        "standalone_drop_path": settings.standalone_drop_path > 0,
        "standalone_auxiliary": settings.standalone_auxiliary > 0,
    }
    for name in (name for name, wanted in asked.items() if wanted):
        if path is None:
            none = "None" if name == "dropout" else "0"
            raise ValueError(
                f"{name} must be {none} for a network whose layers are not known (path), got "
                f"{getattr(settings, name)}"
            )
    if path is None or not any(asked.values()):
        return None
    if settings.standalone_drop_path:
        path = with_drop_path(path, settings.standalone_drop_path_rule)
    if settings.dropout is not None:
        check_classifier(path[-1])
        path = (*path[:-1], with_dropout(path[-1], settings.dropout))
    return path


def _check_batch_norms(network: nn.Module, path: Iterable[Layer]) -> None:
    """Raise ValueError where a layer has a batch norm that only torch can run, for several processes."""
    name = opaque_batch_norm(network, path)
    if name is not None:
        raise ValueError(
            f"opaque module {name!r} has a BatchNorm of its own, whose statistics would be those of "
            "a part of the batch: describe it by a BatchNorm2d op, or train in one process"
        )


def _check_momentum(network: nn.Module, path: Iterable[Layer]) -> None:
    """Raise ValueError where a batch norm's running statistics would not follow as the network has it."""
    for op in (op for layer in path for op in layer.ops if isinstance(op, layers.BatchNorm2d)):
        momentum = network.get_submodule(op.module).momentum
        if momentum != MOMENTUM:
            raise ValueError(
                f"network must have batch norms of momentum {MOMENTUM} where settings change its layers "
                f"(dropout, standalone_drop_path, standalone_auxiliary), got {momentum} of {op.module!r}"
            )


def first_operators(settings: TrainSettings, device: torch.device) -> str:
    """Return the operators to begin with; ImportError where "native" is wanted but was not compiled."""
    if settings.operators == "native":
        compiled.load()
    if settings.operators != "auto":
        return settings.operators
    return "native" if settings.channels_last and kernels.usable(device) else "torch"


@lru_cache(maxsize=REMEMBERED)
def _prefix_tree(paths: tuple[Path, ...]) -> PrefixTree:
    return PrefixTree(paths)
