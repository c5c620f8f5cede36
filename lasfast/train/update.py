"""The rule of an update: an optimizer on the weights that a batch's paths use, slices of weights included."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lasfast.execution.modules import parameter_shapes
from lasfast.ir import layers
from lasfast.ir.layers import Layer
from lasfast.ops.sgd import Index, Sgd, SgdRule
from lasfast.train.settings import TrainSettings

Used = Sequence[tuple[nn.Parameter, Sequence[Index]]]
"""Weights, and the parts of each that are in use."""
States = dict[str, dict[nn.Parameter, Tensor]]
"""The state of an optimizer by its names: of each weight a tensor of its shape, or a number of updates."""
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
REMEMBERED = 64  # updates whose tables are kept: a step has few, random paths make ever new ones
STEP = "step"  # torch's name for the number of updates
MOMENTUM = "momentum"


@dataclass(frozen=True)
class OptimRule:
    """The rule by which an optimizer of `torch.optim` updates weights.

    Attributes:
        kind: its class.
        arguments: those of its constructor but for weights, learning rate and weight decay.
        names: the names of its states.
        weight_decay: that of the weights that decay.
        clip_norm: the bound of the Euclidean norm of an update's scaled gradient, all parts together.
    """

    kind: type[torch.optim.Optimizer]
    names: tuple[str, ...]
    weight_decay: float
    clip_norm: float | None
    arguments: Mapping[str, Any] = field(default_factory=dict)


Rule = SgdRule | OptimRule


def rule_of(settings: TrainSettings) -> Rule:
    """Return the rule of the settings' optimizer; where these say nothing, torch's defaults hold."""
    if settings.optimizer == "sgd":
        return SgdRule(settings.momentum, settings.nesterov, settings.weight_decay, settings.clip_norm)
    arguments: dict[str, Any] = {} if settings.eps is None else {"eps": settings.eps}
    if settings.optimizer == "adamw":
        arguments["betas"] = (settings.momentum, 0.999 if settings.beta2 is None else settings.beta2)
        kind: type[torch.optim.Optimizer] = torch.optim.AdamW
        names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    else:
        arguments["momentum"] = settings.momentum
        if settings.beta2 is not None:
            arguments["alpha"] = settings.beta2
        kind = torch.optim.RMSprop
        names = ("square_avg", "momentum_buffer") if settings.momentum else ("square_avg",)
    return OptimRule(kind, (*names, STEP), settings.weight_decay, settings.clip_norm, arguments)


class Updates:
    """Updates by one rule, of whatever weights the paths at hand use. `states` are those of all updates.

    The weights in `undecayed` have no weight decay.
    """

    def __init__(self, rule: Rule, undecayed: Iterable[nn.Parameter] = ()) -> None:
        self.rule, self.undecayed = rule, frozenset(undecayed)
        names = (MOMENTUM,) if isinstance(rule, SgdRule) else rule.names
        self.states: States = {name: {} for name in names}
        self._updates: dict[Hashable, Update] = {}

    def of(self, paths: Hashable, used: Callable[[], Used]) -> Update:
        """Return the update of the weights that `paths` use, which `used` tells."""
        update = self._updates.pop(paths, None) or self._make(used())
        self._updates[paths] = update  # the last one
        if len(self._updates) > REMEMBERED:
            del self._updates[next(iter(self._updates))]
        return update

    def _make(self, used: Used) -> Update:
        if isinstance(self.rule, SgdRule):
            return SgdUpdate(used, self.states[MOMENTUM], self.rule, self.undecayed)
        return OptimUpdate(used, self.states, self.rule, self.undecayed)

    def restart(self, states: Mapping[str, Mapping[nn.Parameter, Tensor]]) -> None:
        """Go on from copies of these states; weights without one start anew."""
        self._updates.clear()
        for name, own in self.states.items():
            own.clear()
            for weight, state in states.get(name, {}).items():
                like = state if name == STEP else weight.detach()
                own[weight] = torch.empty_like(like).copy_(state)


class Update(ABC):
    """An update of the weights in `used`, to be run again and again.

    It leaves alone what is not in use, and weights without a gradient: nothing decays there, and the
    optimizer's state stays. A weight's state begins as zeros, at its first update.
    """

    def __init__(self, used: Used) -> None:
        self._used = used
        self._kept: tuple[int, ...] | None = None

    def take_gradients(self) -> list[Tensor | None]:
        """Take the gradients off the weights in use, and return them."""
        gradients = [weight.grad for weight, _ in self._used]
        for weight, _ in self._used:
            weight.grad = None
        return gradients

    def run(self, gradients: Sequence[Tensor | None], learning_rate: float, scale: float) -> None:
        """Update by `scale` times these gradients, as `take_gradients` gave them."""
        kept = tuple(number for number, gradient in enumerate(gradients) if gradient is not None)
        if kept != self._kept:
            self._prepare([self._used[number] for number in kept])
            self._kept = kept
        self._run([one for one in gradients if one is not None], learning_rate, scale)

    @abstractmethod
    def _prepare(self, used: Used) -> None:
        """Prepare for gradients of these weights."""

    @abstractmethod
    def _run(self, gradients: Sequence[Tensor], learning_rate: float, scale: float) -> None:
        """Update the weights that were prepared."""


class SgdUpdate(Update):
    """An update by stochastic gradient descent, one native call for all weights."""

    _sgd: Sgd

    def __init__(
        self,
        used: Used,
        momenta: dict[nn.Parameter, Tensor],
        rule: SgdRule,
        undecayed: Collection[nn.Parameter] = (),
    ) -> None:
        super().__init__(used)
        self._momenta, self._rule, self._undecayed = momenta, rule, undecayed

    def _prepare(self, used: Used) -> None:
        weights = [weight for weight, _ in used]
        momenta = None
        if self._rule.momentum:
            for weight in weights:
                if weight not in self._momenta:
                    self._momenta[weight] = torch.zeros_like(weight)
            momenta = [self._momenta[weight] for weight in weights]
        decays = [weight not in self._undecayed for weight in weights]
        self._sgd = Sgd(weights, momenta, [parts for _, parts in used], self._rule, decays)

    def _run(self, gradients: Sequence[Tensor], learning_rate: float, scale: float) -> None:
        self._sgd.update(gradients, learning_rate, scale)


class OptimUpdate(Update):
    """An update by an optimizer of `torch.optim`, which is given the parts in use as weights of their own.

    A part is a view of its weight, and so is the part's state. The number of updates is the weight's: it
    counts those that changed any part, as `torch.optim.SparseAdam` counts.
    """

    _optimizer: torch.optim.Optimizer

    def __init__(
        self, used: Used, states: States, rule: OptimRule, undecayed: Collection[nn.Parameter] = ()
    ) -> None:
        super().__init__(used)
        self._states, self._rule, self._undecayed = states, rule, undecayed
        self._addresses: list[int] = []

    def _prepare(self, used: Used) -> None:
        self._kept_used = used
        self._addresses = [weight.data_ptr() for weight, _ in used]
        self._parts: list[tuple[nn.Parameter, Index, nn.Parameter]] = []
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for weight, indices in used:
            self._begin(weight)
            for index in indices:
                part = nn.Parameter(weight.detach()[index])
                self._parts.append((weight, index, part))
                groups[weight not in self._undecayed].append(part)
        self._optimizer = self._rule.kind(
            [
                {"params": parts, "weight_decay": self._rule.weight_decay if decays else 0.0}
                for decays, parts in groups.items()
            ],
            **self._rule.arguments,
        )
        for weight, index, part in self._parts:
            self._optimizer.state[part] = {
                name: torch.zeros_like(states[weight]) if name == STEP else states[weight][index]
                for name, states in self._states.items()
            }

    def _begin(self, weight: nn.Parameter) -> None:
        for name, states in self._states.items():
            if weight not in states:
                zero = torch.zeros((), dtype=torch.float32) if name == STEP else torch.zeros_like(weight)
                states[weight] = zero.detach()

    def _run(self, gradients: Sequence[Tensor], learning_rate: float, scale: float) -> None:
        if self._addresses != [weight.data_ptr() for weight, _ in self._kept_used]:
            self._prepare(self._kept_used)  # the weights were moved since
        taken = dict(zip((weight for weight, _ in self._kept_used), gradients, strict=True))
        steps, state = self._states[STEP], self._optimizer.state
        for weight, index, part in self._parts:
            part.grad = taken[weight][index] * scale
            state[part][STEP].copy_(steps[weight])
        if self._rule.clip_norm is not None:
            nn.utils.clip_grad_norm_([part for *_, part in self._parts], self._rule.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        for weight in taken:
            steps[weight] += 1


def biases_and_norms(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the biases of all layers, and the scales of norms."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if "bias" in name or isinstance(module, NORMS):
                yield parameter


def used_parts(modules: Mapping[str, nn.Module], path: Iterable[Layer]) -> Used:
    """Return what the layers of one or more paths use of the weights of `modules` (by dotted names)."""
    shapes: dict[nn.Parameter, set[tuple[int, ...]]] = {}
    for op in (op for layer in path for op in layer.ops):
        if isinstance(op, layers.Code):
            for owner, _, last in (one.rpartition(".") for one in op.tensors):
                tensor = getattr(modules[owner], last)
                if isinstance(tensor, nn.Parameter):
                    shapes.setdefault(tensor, set()).add(tuple(tensor.shape))
        name = getattr(op, "module", None)
        if name is None:
            continue
        own = dict(modules[name].named_parameters())
        opaque = isinstance(op, layers.Opaque)
        read = ((key, one.shape) for key, one in own.items()) if opaque else parameter_shapes(op)
        for key, shape in read:
            shapes.setdefault(own[key], set()).add(tuple(shape))
    return [(weight, list(_union(read, weight.shape))) for weight, read in shapes.items()]


def _union(shapes: set[tuple[int, ...]], whole: tuple[int, ...]) -> Iterator[Index]:
    """Cut the union of the leading parts of these shapes into parts that do not overlap.

    The shapes differ in their first two dimensions at most.
    """
    if shapes == {tuple(whole)}:
        yield ()
        return
    corners = {(*shape, 1)[:2] for shape in shapes}
    first = 0
    for rows in sorted({rows for rows, _ in corners}):
        columns = max(columns for other, columns in corners if other >= rows)
        if any(other > rows and width == columns for other, width in corners):
            continue  # the rows below are as wide
        yield (slice(first, rows), slice(columns))[: len(whole)]
        first = rows
