"""A supernet made of any convolutional classifier, whose weights it keeps."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import fx, nn

from lasfast import costs
from lasfast.constraints import Constraint
from lasfast.core.checks import as_ints, as_number, check_choice
from lasfast.execution.from_fx import UntraceableError, read
from lasfast.execution.interpret import evaluation_mode
from lasfast.execution.modules import copy_leading, move_like
from lasfast.execution.to_fx import Statistics, copy_tensors, extract, is_reserved
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Path, Shape, with_prefix
from lasfast.ir.stages import without_unread
from lasfast.runtime.seeds import torch_seed
from lasfast.spaces import Architecture, ChoiceSpace, LayerAssignmentSpace
from lasfast.supernets.alike import find_alike
from lasfast.supernets.base import Supernet
from lasfast.supernets.elastic import ElasticNetwork, Vary
from lasfast.supernets.importance import IMPORTANCES, TAYLOR, sort_channels, taylor_importance

TOLERANCE = 1e-3
"""The greatest difference of a reading from the model, in norm; a GPU may multiply fp32 as TF32."""
NETWORK = "network"
"""The module of the supernet that has the model's modules, whose names may be those of its attributes."""


def from_model(
    model: nn.Module,
    image_shape: Sequence[int],
    *,
    vary: Vary = "both",
    widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    freeze: str | Sequence[str] = (),
    importance: str = "magnitude",
    batches: Iterable[Any] | None = None,
) -> ModelSupernet:
    """Return the supernet of all narrower and shallower versions of a model, which keep its weights.

    What may vary is found from what the model computes, whoever wrote it. Channels that are added, gated,
    normalized or flattened together are a group, which one decision narrows. The blocks of a stage that add
    to what they read can be left out, the last ones first. `print(supernet)` shows both, and which channels
    keep their number and why.

    Args:
        model: takes images `[N, *image_shape]` and gives logits [N, classes]. Its weights are copied.
        image_shape: (channels, height, width) of the images.
        vary: what may vary: "widths", "depth" (a `LayerAssignmentSpace`, which NIR searches) or "both".
        widths: the widths to choose from, as shares of the model's own. They are rounded to multiples of 8,
            and the model's own is always among them.
        freeze: names of modules, such as "layer1" or "layer1.0.conv1", that stay as they are, with all that
            is in them.
        importance: how the channels of a group are sorted, so that the most important ones are kept: by the
            "l1" norm of the weights that write them, by the norm of the weights of their "readers", by both
            ("magnitude"), by the scale of their "batch_norm", by the "taylor" expansion of the loss on
            `batches`, or in the "order" that they have.
        batches: a few batches of pairs, images `[N, *image_shape]` and labels [N] int64, as a DataLoader or a
            list gives them; for "taylor" alone. All of them are run, forwards and backwards.

    Raises:
        ValueError: the model cannot be read, or nothing in it may vary, for the reasons that are given; or an
            argument is out of range.
    """
    return ModelSupernet(
        model,
        image_shape,
        vary=vary,
        widths=widths,
        freeze=freeze,
        importance=importance,
        batches=batches,
    )


class ModelSupernet(Supernet):
    """The supernet of a model: all its narrower and shallower versions, which share its weights.

    `from_model` makes it, and says what its arguments are.

    Attributes:
        image_shape: (channels, height, width) of the images.
        full: the architecture that is the model itself.
        fixed: (what, why) of each group of channels that keeps its number.
        network: the weights, in plain modules with the model's names. The channels are sorted.
    """

    space: ChoiceSpace | LayerAssignmentSpace
    network: nn.Module

    def __init__(
        self,
        model: nn.Module,
        image_shape: Sequence[int],
        *,
        vary: Vary,
        widths: Sequence[float],
        freeze: str | Sequence[str],
        importance: str,
        batches: Iterable[Any] | None = None,
    ) -> None:
        check_choice("vary", vary, ("widths", "depth", "both"))
        _check_importance(importance, batches)
        self.image_shape = _checked_shape(image_shape)
        program = _read(model, self.image_shape)
        self._elastic = ElasticNetwork(
            program,
            self.image_shape,
            vary=vary,
            shares=_checked_shares(widths),
            kept=_frozen(model, program, freeze),
            alike=find_alike(model, program, self.image_shape),
        )
        self.fixed = self._elastic.fixed
        (classes,) = program.shapes(self.image_shape)[-1]
        super().__init__(self._elastic.space, num_classes=classes, in_channels=self.image_shape[0])
        full = self.space.largest()
        assert full is not None
        self.full: Architecture = full
        self._prefixed: dict[Layer, Layer] = {}
        self._take_weights(model, program)
        self.train(model.training)
        sort_channels(
            self._elastic.narrowed_groups,
            dict(self.network.named_modules()),
            IMPORTANCES[importance] if batches is None else taylor_importance(model, batches),
        )
        self._compare(model)

    def path(self, architecture: Architecture) -> Path:
        """Return the layers of an architecture, whose modules are those of `network`."""
        path = self._elastic.path(architecture)
        for layer in path:
            if layer not in self._prefixed:
                self._prefixed[layer] = with_prefix(layer, f"{NETWORK}.")
        return tuple(map(self._prefixed.__getitem__, path))

    def scaled(self) -> Iterable[Architecture]:
        """Give the versions that are scaled alike everywhere, from the smallest to the model itself.

        Widths are one share of the model's own, each the option that is nearest; versions smaller than the
        narrowest one of these have fewer blocks, too.
        """
        return self._elastic.scaled()

    def constraint(self, bounds: str, tables: Iterable[costs.LatencyTable] = ()) -> Constraint:
        """Return the constraint that searchers take, of bounds as text.

        Numbers with `%` or `x` are relative to the model: `flops<=50%`, `params<=0.5x`; others are absolute,
        as `flops<=100M`.

        Args:
            bounds: text that `lasfast.constraints.parse_bounds` reads.
            tables: tables of latencies, for bounds such as `latency<=50%@NAME`.

        Raises:
            ValueError: malformed bounds, or a cost that is not known.
        """
        _, height, width = self.image_shape
        return Constraint(bounds, costs.functions(self, (height, width), tables), self.full)

    def extract(
        self, architecture: Architecture, statistics: Statistics | None = None, *, fresh: bool = False
    ) -> fx.GraphModule:
        """Return the stand-alone network of an architecture (see `Supernet.extract`).

        Its modules have the model's names, and so has its state dict.
        """
        own = {name.removeprefix(f"{NETWORK}."): one for name, one in (statistics or {}).items()}
        return extract(self.extracted_path(architecture), self.network, own, fresh=fresh)

    def extracted_path(self, architecture: Architecture) -> Path:
        """Return the layers of an architecture, whose modules have the model's names."""
        return self._elastic.path(architecture)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this supernet's structure; the weights do not say the strides."""
        digest = hashlib.blake2b(repr(self._elastic.path(self.full)).encode(), digest_size=8).hexdigest()
        return {**super().describe(), "program": digest, "decisions": list(map(str, self._elastic.decisions))}

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_shape))
        count = self.space.count()
        number = f"{count:,}" if count < 1e6 else f"{count:.3g}"
        title = f"{type(self).__name__} on images {size}: {number} architectures"
        return f"{title}\n{self._elastic.explanation()}"

    def _take_weights(self, model: nn.Module, program: Layer) -> None:
        """Make the modules of `network` with copies of the model's weights and buffers."""
        opaque = {op.module for op in program.ops if isinstance(op, layers.Opaque)}
        for name in opaque:
            self.add_opaque(f"{NETWORK}.{name}", copy.deepcopy(model.get_submodule(name)))
        with torch_seed(0):  # the caller's generator stays as it is
            self.create_modules(self.path(self.full))
        copy_tensors(self.network, dict(model.named_modules()), _read_by_code(program))
        for name in _modules_of(program) - opaque:
            source, own = model.get_submodule(name), self.network.get_submodule(name)
            move_like(own, source)
            copy_leading(own, source)
            if isinstance(own, nn.BatchNorm2d):
                own.momentum = getattr(source, "momentum", own.momentum)

    def _compare(self, model: nn.Module) -> None:
        """Raise ValueError unless the supernet computes what the model does, on two random images."""
        example = next(model.parameters(), torch.zeros(0, dtype=torch.float32))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, *self.image_shape, dtype=torch.float32, generator=generator)
        images = images.to(example.device, example.dtype)
        with torch.no_grad(), evaluation_mode(model), evaluation_mode(self):
            expected, found = model(images), self(images, self.full)
        limits = torch.finfo(expected.dtype)
        difference = float((found - expected).norm() / expected.norm().clamp(min=limits.tiny))
        if not difference <= max(TOLERANCE, 16 * limits.eps):
            raise ValueError(
                "model must compute what was read off its forward, but on two random images the logits "
                f"differ by {difference:.2g} of their norm"
            )


def _check_takes(model: nn.Module, image_shape: Shape) -> None:
    """Raise ValueError where a model fails on images of a shape."""
    example = next(model.parameters(), torch.zeros(0, dtype=torch.float32))
    images = torch.zeros(2, *image_shape, dtype=example.dtype, device=example.device)
    try:
        with torch.no_grad(), evaluation_mode(model):
            model(images)
    except Exception as error:  # whatever the model's own code raises
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"image_shape must be that of images which the model takes, got {image_shape}: {reason}"
        ) from error


def _read(model: nn.Module, image_shape: Shape) -> Layer:
    """Return the program of a model; ValueError where it cannot be read, or its modules not be extracted."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    try:
        with evaluation_mode(model):
            found = read(model, image_shape)
    except UntraceableError as error:
        _check_takes(model, image_shape)
        raise ValueError(f"model must be a network that lasfast can read, but {error}") from error
    program = without_unread(found.layer)
    if found.of_one_size:
        program = replace(program, input_shape=image_shape)
    shape = program.shapes(image_shape)[-1]
    if len(shape) != 1:
        raise ValueError(f"model must give logits [N, classes], got [N, {', '.join(map(str, shape))}]")
    for op in program.ops:
        name = getattr(op, "module", "")
        if isinstance(op, layers.BatchNorm2d) and model.get_submodule(name).running_mean is None:
            raise ValueError(f"model must have running statistics in its batch norms, {name!r} has none")
        for one in op.tensors if isinstance(op, layers.Code) else (name,):
            if is_reserved(one):
                raise ValueError(f"model must have nothing named as an attribute of GraphModule, got {one!r}")
    _check_shared(model, program)
    return program


def _check_shared(model: nn.Module, program: Layer) -> None:
    """Raise ValueError where two modules share a parameter: each would get channels sorted by its own."""
    modules = [model.get_submodule(name).named_parameters(name) for name in sorted(_modules_of(program))]
    everything = dict(model.named_parameters(remove_duplicate=False))
    of_code = [(name, everything[name]) for name in _read_by_code(program) if name in everything]
    first: dict[int, str] = {}
    for name, parameter in chain(*modules, of_code):
        known = first.setdefault(parameter.data_ptr() or id(parameter), name)  # "meta" has no memory
        if known != name and parameter.numel():
            raise ValueError(f"model must have no weight that its modules share, got {known!r}, {name!r} too")


def _read_by_code(program: Layer) -> list[str]:
    return [name for op in program.ops if isinstance(op, layers.Code) for name in op.tensors]


def _modules_of(program: Layer) -> set[str]:
    return {op.module for op in program.ops if hasattr(op, "module")}


def _check_importance(importance: str, batches: Iterable[Any] | None) -> None:
    check_choice("importance", importance, (*IMPORTANCES, TAYLOR))
    if importance == TAYLOR and not isinstance(batches, Iterable):
        raise ValueError(
            f"batches must be pairs (images, labels) for importance={TAYLOR!r}, which asks for gradients, "
            f"got {batches!r}"
        )
    if importance != TAYLOR and batches is not None:
        raise ValueError(f"batches must be left out for importance={importance!r}, which asks for no images")


def _checked_shape(image_shape: Sequence[int]) -> Shape:
    shape = as_ints("image_shape", image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"image_shape must be (channels, height, width), got {image_shape!r}")
    return shape


def _checked_shares(widths: Sequence[float]) -> tuple[float, ...]:
    if not isinstance(widths, Sequence) or not widths:
        raise TypeError(f"widths must be a sequence of shares such as (0.5, 1.0), got {widths!r}")
    shares = tuple(as_number("widths", one, above=0) for one in widths)
    if max(shares) > 1:
        raise ValueError(f"widths must be at most 1, the model's own, got {widths!r}")
    return shares


def _frozen(model: nn.Module, program: Layer, freeze: str | Sequence[str]) -> set[str]:
    """Return the names of the program's modules that are named, or are in a named one."""
    wanted = (freeze,) if isinstance(freeze, str) else tuple(freeze)
    known = dict(model.named_modules())
    for name in wanted:
        if name not in known or not name:
            raise ValueError(f"freeze must name modules of the model, such as 'layer1.0', got {name!r}")
    return {
        module
        for module in _modules_of(program)
        if any(f"{module}.".startswith(f"{name}.") for name in wanted)
    }
