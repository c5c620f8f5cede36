"""Sorts the channels of each group by importance, so that the leading ones are those to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lasfast.execution.interpret import evaluation_mode
from lasfast.ir.channels import ChannelGroup

Importance: TypeAlias = Callable[[ChannelGroup, Mapping[str, nn.Module]], Tensor]
"""A function of a group and the modules by name that returns the importance of each channel, [channels]."""
TAYLOR = "taylor"
"""The importance that asks for images: `taylor_importance`."""


def reader_importance(group: ChannelGroup, modules: Mapping[str, nn.Module]) -> Tensor:
    """Return the squared L2 norm of the weights that read each channel, [channels].

    Where batch norm gives all channels a like size, what a channel does is up to those that read it.
    """
    scores = []
    for axis in group.axes:
        if axis.dimension == 1:
            weight = modules[axis.module].get_parameter("weight").detach().float()
            scores.append(weight.transpose(0, 1).reshape(group.channels, -1).square().sum(1))
    return _total(group, scores)


def l1_importance(group: ChannelGroup, modules: Mapping[str, nn.Module]) -> Tensor:
    """Return the L1 norm of the weights that write each channel, [channels] (Li et al. 2017, section 3.1)."""
    written = [modules[axis.module] for axis in group.axes if axis.dimension == 0]
    scores = [
        one.weight.detach().float().abs().flatten(1).sum(1)
        for one in written
        if isinstance(one, nn.Conv2d | nn.Linear)
    ]
    return _total(group, scores)


def magnitude_importance(group: ChannelGroup, modules: Mapping[str, nn.Module]) -> Tensor:
    """Return the norm of the weights that write each channel times that of those that read it, [channels]."""
    return l1_importance(group, modules) * reader_importance(group, modules).sqrt()


def norm_importance(group: ChannelGroup, modules: Mapping[str, nn.Module]) -> Tensor:
    """Return the scale that batch norms give each channel, [channels] (Liu et al. 2017, section 3).

    Where no batch norm scales them, that is `l1_importance`.
    """
    norms = [modules[axis.module] for axis in group.axes]
    scores = [
        one.weight.detach().float().abs() for one in norms if isinstance(one, nn.BatchNorm2d) and one.affine
    ]
    return _total(group, scores) if scores else l1_importance(group, modules)


def _total(group: ChannelGroup, scores: Iterable[Tensor]) -> Tensor:
    """Return the sum of the scores of several modules, which count alike: each is relative to its mean."""
    total = torch.zeros(group.channels, dtype=torch.float32)
    for one in scores:
        total += (one / one.mean().clamp(min=torch.finfo(one.dtype).tiny)).cpu()
    return total


def taylor_importance(model: nn.Module, batches: Iterable[Any]) -> Importance:
    """Return the importance by how much the loss would change without a channel, to first order.

    That is |weight * gradient|, summed over the weights that write a channel and over batches (Molchanov et
    al. 2019, who sum squares). Norms and dropout are in evaluation mode. The model stays as it is, its
    gradients and modes included.

    Args:
        model: takes images [N, C, H, W] and gives logits [N, classes].
        batches: pairs of images and of labels [N] int64, of which cross-entropy is the loss.

    Raises:
        TypeError, ValueError: `batches` gives something else, or nothing.
    """
    weights = {
        f"{name}.weight": one.weight.detach().requires_grad_()
        for name, one in model.named_modules()
        if isinstance(one, nn.Conv2d | nn.Linear)
    }
    effects = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    found = False
    for batch in batches:
        images, labels = _pair(batch)
        with torch.enable_grad(), evaluation_mode(model):
            device = next(iter(weights.values())).device
            loss = F.cross_entropy(functional_call(model, weights, (images.to(device),)), labels.to(device))
            gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            effects[name] += (weight.detach() * gradient).abs()
        found = True
    if not found:
        raise ValueError("batches must have at least one pair (images, labels), got none")

    def importance(group: ChannelGroup, modules: Mapping[str, nn.Module]) -> Tensor:
        total = torch.zeros(group.channels, dtype=torch.float32)
        for axis in group.axes:
            effect = effects.get(f"{axis.module}.weight")
            if axis.dimension == 0 and effect is not None:
                total += effect.flatten(1).sum(1).float().cpu()
        return total

    return importance


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise TypeError(f"batches must give pairs (images, labels), got {type(batch).__name__}")
    images, labels = batch
    return images, labels


IMPORTANCES: dict[str, Importance] = {
    "magnitude": magnitude_importance,
    "readers": reader_importance,
    "l1": l1_importance,
    "batch_norm": norm_importance,
    "order": lambda group, modules: -torch.arange(group.channels, dtype=torch.float32),
}
"""The importances that follow from the weights alone; "order" takes the channels to be sorted already."""


def sort_channels(
    groups: Iterable[ChannelGroup], modules: Mapping[str, nn.Module], importance: Importance
) -> None:
    """Reorder the weights of modules so that the channels of each group come in falling importance.

    Blocks of channels that belong together stay so, and are as important as their channels together. What the
    modules compute between the network's inputs and outputs does not change but for rounding.
    """
    orders = [(group, _order(group, importance(group, modules))) for group in groups]
    with torch.no_grad():
        for group, order in orders:
            for axis in group.axes:
                entries = order[:, None] * axis.spread + torch.arange(axis.spread)
                _permute(modules[axis.module], axis.dimension, entries.flatten())


def _order(group: ChannelGroup, scores: Tensor) -> Tensor:
    """Return the channels in falling importance, [channels] int64; equal ones stay in their order."""
    blocks = scores.reshape(-1, group.block)
    order = blocks.sum(1).argsort(descending=True, stable=True)
    return (order[:, None] * group.block + torch.arange(group.block)).flatten()


def _permute(module: nn.Module, dimension: int, entries: Tensor) -> None:
    """Reorder a dimension of a module's weight or, for dimension 0, of all its tensors."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.dim() > dimension and (dimension == 0 or name == "weight"):
            tensor.copy_(tensor.index_select(dimension, entries.to(tensor.device)))
