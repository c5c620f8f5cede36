"""The writer of random programs: it draws their texts, and keeps statements that give sound values."""

from __future__ import annotations

import copy
import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.execution.random_networks.activations import (
    ACTIVATION_CALLS,
    ACTIVATION_CALLS_IN_PLACE,
    ACTIVATION_MODULES,
    OTHER_ACTIVATION_MODULES,
    SIMPLE,
    UNRECORDED,
    inplace_form,
    plain_form,
)
from tests.execution.random_networks.programs import NAMES, Network, Program, run_text

_TARGETS = re.compile(r"^(?:with [^:]*: )?([a-z]\w*(?:, [a-z]\w*)*) = ")


class Writer:
    """Writes a program: each proposal is run on an example, and taken where its values are sound."""

    def __init__(self, rng: random.Random, shape: tuple[int, ...], depth: int, features: set[str]) -> None:
        self.rng, self.depth, self.features = rng, depth, features
        self.parts: dict[str, str | Program] = {}
        self.setup: list[str] = []
        self.steps: list[str] = []
        self.network = Network(Program())
        generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
        self.images = torch.randn(4, *shape, generator=generator)
        images = self.images.clone()
        self.values: dict[str, Any] = {"x": images, "images": images}
        """The variables' values, and under `images` those that the program was given, whatever `x` is now."""
        self.order = ["x"]
        self.touched: list[str] = []
        """Variables that share memory with others, or were written in place: they should be read again."""
        self.rarely = 0.02 if "simple" in features or depth else 0.3
        """How often a program may change its images in place."""

    # ---- drawing

    def chance(self, p: float) -> bool:
        """Return true with a probability."""
        return self.rng.random() < p

    def choice(self, options: Any) -> Any:
        """Return one of several options."""
        return self.rng.choice(list(options))

    def simple(self, texts: tuple[str, ...]) -> str:
        """Return one of several activations, in simple networks one that layer records know."""
        return self.choice(t for t in texts if "simple" not in self.features or SIMPLE.search(t))

    def pick(self, dims: int = 4, like: str | None = None, least: int = 1) -> str:
        """Return a variable, a late one more often; the caller's proposal fails where there is none."""
        names = [
            name
            for name in self.order
            if self.values[name].dim() == dims
            and (dims != 4 or min(self.values[name].shape[2:]) >= least)
            and (like is None or (self.values[name].shape == self.values[like].shape and name != like))
        ]
        if not names:
            raise LookupError
        again = [name for name in self.touched if name in names]
        if again and self.chance(0.3):
            return self.choice(again)
        return names[-1] if self.chance(0.5) else self.choice(names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable."""
        return tuple(self.values[name].shape)

    def target(self, source: str) -> str:
        """Return a variable to assign: the source's own, or a new one."""
        if self.chance(0.35):
            return source
        return self.new("v")

    def new(self, prefix: str) -> str:
        """Return a name that nothing has."""
        names = (f"{prefix}{number}" for number in range(1000))
        return next(one for one in names if one not in self.values and not hasattr(self.network, one))

    # ---- writing

    def take(
        self, *steps: str, parts: dict[str, str | Program] | None = None, setup: tuple[str, ...] = ()
    ) -> bool:
        """Append steps with the parts that they need, if they run and their values are sound."""
        parts = parts or {}
        text = " ".join((*steps, *map(str, parts.values())))
        if "simple" in self.features and UNRECORDED.search(text) and self.chance(0.9):
            return False
        trial = copy.deepcopy(self.values)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                for name, part in parts.items():
                    self.network.add(name, part)
                for text in setup:
                    run_text(text, {**NAMES, "self": self.network})
                scope = {**NAMES, "self": self.network, **trial}
                for text in steps:
                    run_text(text, scope)
                found = {k: v for k, v in scope.items() if k not in NAMES and k != "self" and k[0] != "_"}
                found = {k: v.detach() if isinstance(v, Tensor) else v for k, v in found.items()}
                sound = all(map(_is_sound, found.values()))
                if not torch.equal(found["images"], self.images) and not self.chance(self.rarely):
                    sound = False
        except Exception:
            sound = False
        if not sound:
            for name in parts:
                if hasattr(self.network, name):
                    delattr(self.network, name)
            return False
        self.values = found
        self.parts.update(parts)
        self.setup += setup
        self.steps += steps
        for text in steps:
            match = _TARGETS.match(text)
            names = match[1].split(", ") if match else []
            self.order = [one for one in (*self.order, *names) if isinstance(self.values.get(one), Tensor)]
            self.order = [one for number, one in enumerate(self.order) if one not in self.order[number + 1 :]]
        self.touched = [one for one in self.touched if one in self.order]
        return True

    def note(self, *names: str) -> None:
        """Remember variables that share memory or were written in place, and often read one of them."""
        names = tuple(name for name in names if name in self.order)
        self.touched += [name for name in names if name not in self.touched]
        if names and self.chance(0.6):
            source = self.choice(names)
            if self.values[source].dim() == 4:
                self.choice(READERS)(self, source)

    # ---- modules

    def conv_text(
        self, channels: int, height: int, width: int, out: int | None = None, same: bool = False
    ) -> str:
        """Return a convolution; `same` keeps the size of its input."""
        out = out or self.rng.randint(1, 12)
        odd = "odd convolutions" in self.features
        kernel: Any = self.choice((1, 3, 3, 3, 5))
        groups = self.choice([g for g in range(1, channels + 1) if channels % g == 0 and out % g == 0])
        if self.chance(0.7):
            groups = 1
        options = []
        dilation = 2 if odd and self.chance(0.2) else 1
        stride: Any = 1 if same or self.chance(0.75) else 2
        if odd and self.chance(0.2):
            kernel = self.choice(((3, 1), (1, 3), (3, 5)))
        pair = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding: Any = tuple(dilation * (k // 2) for k in pair)
        if padding[0] == padding[1] and self.chance(0.9):
            padding = padding[0]
        if not same and self.chance(0.15):
            padding = self.choice((0, 1)) if not odd else self.choice((0, 1, (1, 0), (0, 2)))
        if odd and stride == 1 and self.chance(0.2):
            padding = self.choice(("'same'", "'same'", "'valid'")) if not same else "'same'"
        if odd and not same and stride == 2 and self.chance(0.3):
            stride = (2, 1)
        if stride != 1:
            options.append(f"stride={stride}")
        if padding != 0:
            options.append(f"padding={padding}")
        if dilation != 1:
            options.append(f"dilation={dilation}")
        if groups != 1:
            options.append(f"groups={groups}")
        if self.chance(0.6):
            options.append("bias=False")
        if odd and self.chance(0.15):
            options.append(f"padding_mode={self.choice(('reflect', 'replicate', 'circular'))!r}")
        kind = "nn.Conv2d"
        if "subclasses" in self.features and self.chance(0.25):
            kind = self.choice(("pieces.PlainConv", "pieces.StandardisedConv", "pieces.HalvedConv"))
        return f"{kind}({', '.join([str(channels), str(out), str(kernel), *options])})"

    def norm_text(self, channels: int) -> str:
        """Return a batch norm of four dimensions, as a rule."""
        options = [str(channels)]
        if "odd norms" in self.features:
            options += [o for o in ("affine=False", "momentum=None", "eps=1e-3") if self.chance(0.2)]
            if self.chance(0.1):
                options.append("track_running_stats=False")
        kind = "nn.BatchNorm2d"
        if "subclasses" in self.features and self.chance(0.3):
            kind = self.choice(("pieces.PlainNorm", "pieces.NormAct", "pieces.NormThenRelu"))
        if "other norms" in self.features and self.chance(0.15):
            kind = "nn.SyncBatchNorm"
        return f"{kind}({', '.join(options)})"

    def activation(self, v: str, channels: int, in_place: bool | None = None) -> tuple[str, dict[str, str]]:
        """Return the expression of an activation of a variable, and the parts it needs."""
        in_place = self.chance(0.5) if in_place is None else in_place
        if self.chance(0.35):
            calls = ACTIVATION_CALLS_IN_PLACE if in_place else ACTIVATION_CALLS
            return self.simple(calls).format(v=v), {}
        if in_place:
            text = inplace_form(self.simple(ACTIVATION_MODULES[: self.choice((1, 4, 99))]))
        elif self.chance(0.7) or "simple" in self.features:
            text = plain_form(self.simple(ACTIVATION_MODULES))
        else:
            text = self.choice(OTHER_ACTIVATION_MODULES).format(c=channels)
        name = self.new("act")
        return f"self.{name}({v})", {name: text}

    def program(self, **changes: Any) -> Program:
        """Return what was written."""
        return Program(tuple(self.parts.items()), tuple(self.setup), tuple(self.steps))


def _is_sound(value: Any) -> bool:
    """Return whether a value is one that networks have: finite, and not huge."""
    if isinstance(value, tuple | list):
        return all(map(_is_sound, value))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return not isinstance(value, nn.Parameter)
    return 0 < value.numel() <= 20_000 and bool(value.abs().max() < 30)


Proposal = Callable[[Writer], Any]
PROPOSALS: dict[str, list[tuple[float, Proposal]]] = {}
"""Proposals with their weights, by feature; a network has some of the features."""
READERS: list[Callable[[Writer, str], Any]] = []
"""Proposals that can be told which variable they read."""


def proposal(feature: str, weight: float = 1.0) -> Callable[[Proposal], Proposal]:
    """Register a proposal."""

    def register(function: Proposal) -> Proposal:
        PROPOSALS.setdefault(feature, []).append((weight, function))
        return function

    return register


def reader(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a proposal as one that can be told which variable it reads."""
    READERS.append(function)
    return function


def hook_text(w: Writer, name: str) -> str:
    """Return the registration of a hook."""
    kind, hook = w.choice(
        (
            ("forward_pre", "shift_input"),
            ("forward_pre", "shift_input_in_place"),
            ("forward", "double_output"),
            ("forward", "double_output_in_place"),
            ("forward", "see_output"),
            ("full_backward", "scale_gradient"),
        )
    )
    return f"self.{name}.register_{kind}_hook(pieces.{hook})"


# ---- whole programs


def write(
    rng: random.Random, shape: tuple[int, ...], depth: int, features: set[str], count: int
) -> Program | None:
    """Return a program of some proposals; None where none was taken."""
    w = Writer(rng, shape, depth, features)
    options = [one for name in ("core", *sorted(features)) for one in PROPOSALS.get(name, ())]
    weights = [weight for weight, _ in options]
    taken = 0
    for _ in range(6 * count):
        [(_, make)] = rng.choices(options, weights)
        try:
            taken += bool(make(w))
        except LookupError:
            continue
        if taken >= count:
            break
    if not taken:
        return None
    _finish(w)
    return w.program() if any(text.startswith("result = ") for text in w.steps) else None


def _finish(w: Writer) -> None:
    """Write what the network gives: its last value, a classifier's logits, or all that was touched."""
    if not w.order:
        return
    last = w.order[-1]
    names = [one for one in w.order if w.values[one].dim() == 4]
    again = [one for one in names if one in w.touched and one != last]
    form = w.rng.random()
    if w.depth:
        same = [one for one in again if w.shape(one) == w.shape(last)]
        if same and w.chance(0.5):
            w.take(f"result = {last} + {w.choice(same)}")
        else:
            w.take(f"result = {last}")
        return
    if w.values[last].dim() != 4 or form < 0.1:
        w.take(f"result = {last}")
        return
    if form < 0.2:
        w.take(f"result = ({', '.join([last, *again])},)" if again else f"result = ({last}, {last})")
        return
    read = [last, *w.rng.sample(again, min(len(again), 3))]
    if form < 0.35:
        one = w.choice(read)
        c, height, width = w.shape(one)[1:]
        flat = w.choice(
            (
                "{v}.view({v}.size(0), -1)",
                "{v}.reshape({v}.shape[0], -1)",
                "{v}.flatten(1)",
                "torch.flatten({v}, 1)",
                "{v}.view(-1, {f})",
            )
        ).format(v=one, f=c * height * width)
        w.take(f"result = self.head({flat})", parts={"head": f"nn.Linear({c * height * width}, 3)"})
        return
    parts: dict[str, str | Program] = {}
    terms = []
    for number, one in enumerate(read):
        pooled = w.choice(
            ("{v}.mean((2, 3))", "torch.flatten(F.adaptive_avg_pool2d({v}, 1), 1)", "{v}.mean([2, 3])")
        ).format(v=one)
        parts[f"head{number}"] = f"nn.Linear({w.shape(one)[1]}, 4)"
        terms.append(f"self.head{number}({pooled})")
    w.take(f"result = {' + '.join(terms)}", parts=parts)
