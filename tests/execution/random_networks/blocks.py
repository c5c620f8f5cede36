"""What random networks repeat: blocks, lists of modules, and modules that are called twice."""

from __future__ import annotations

import re
from typing import Any

from tests.execution.random_networks.activations import ACTIVATION_MODULES, inplace_form, plain_form
from tests.execution.random_networks.writer import Writer, hook_text, proposal, write


@proposal("blocks", 3)
def residual_block(w: Writer) -> bool:
    """A residual block, whose first activation is before or behind the shortcut."""
    v = w.pick(least=2)
    _, c, height, width = w.shape(v)
    act, out = w.new("relu"), w.target(v)
    kind = inplace_form(w.simple(ACTIVATION_MODULES[: w.choice((1, 3, 99))]))
    if w.chance(0.3):
        kind = plain_form(w.simple(ACTIVATION_MODULES))
    conv1, norm1, conv2, norm2 = (w.new(one) for one in ("conva", "norma", "convb", "normb"))
    i, y = w.new("i"), w.new("y")
    parts: dict[str, Any] = {
        act: kind,
        conv1: w.conv_text(c, height, width, c, True),
        norm1: w.norm_text(c),
        conv2: w.conv_text(c, height, width, c, True),
        norm2: w.norm_text(c),
    }
    begin = [f"{i} = {v}"]
    steps = {
        "post": [
            f"{y} = self.{act}(self.{norm1}(self.{conv1}({v})))",
            f"{y} = self.{norm2}(self.{conv2}({y}))",
            w.choice((f"{y} += {i}", f"{y} = {y} + {i}", f"{i} += {y}")),
            f"{out} = self.{act}({y})",
        ],
        "pre": [
            f"{y} = self.{act}({v})",
            f"{y} = self.{norm1}(self.{conv1}({y}))",
            f"{y} = self.{act}({y})",
            f"{y} = self.{norm2}(self.{conv2}({y}))",
            w.choice((f"{out} = {y} + {i}", f"{y} += {i}", f"{out} = {i} + {y}")),
            *([f"{out} = {y}"] if w.chance(0.5) else []),
        ],
        "pre with norm": [
            f"{y} = self.{act}(self.{norm1}({v}))",
            f"{i} = self.{conv1}({y})",
            f"{y} = self.{conv2}(self.{act}(self.{norm2}({i})))",
            f"{out} = {y} + {i}",
        ],
    }[w.choice(("post", "pre", "pre with norm"))]
    return w.take(*begin, *steps, parts=parts)


@proposal("blocks", 2)
def nested(w: Writer) -> bool:
    """A module of the network's own, with a forward of its own."""
    if w.depth >= 2:
        return False
    v = w.pick()
    inner = write(w.rng, w.shape(v)[1:], w.depth + 1, w.features, w.rng.randint(1, 4))
    if inner is None:
        return False
    name, t = w.new("block"), w.target(v)
    setup: tuple[str, ...] = ()
    if "hooks" in w.features and w.chance(0.2):
        setup = (hook_text(w, name),)
    done = w.take(f"{t} = self.{name}({v})", parts={name: inner}, setup=setup)
    if done:
        w.note(v, t)
    return done


@proposal("blocks")
def module_list(w: Writer) -> bool:
    """A loop over a list of modules, or a list of modules of which one is called twice."""
    v = w.pick()
    _, c, height, width = w.shape(v)
    name, t = w.new("list"), w.new("v")
    items = []
    for _ in range(w.rng.randint(1, 3)):
        items += [w.conv_text(c, height, width, c, True), w.norm_text(c)]
        if w.chance(0.6):
            items.append(inplace_form(w.simple(ACTIVATION_MODULES)))
    kind = w.choice(("nn.ModuleList([{}])", "nn.Sequential({})"))
    return w.take(
        f"{t} = {v}",
        f"for _layer in self.{name}: {t} = _layer({t})",
        parts={name: kind.format(", ".join(items))},
    )


@proposal("shared modules", 2)
def call_again(w: Writer) -> bool:
    """A module that was called before is called again, on another value as a rule."""
    calls = re.compile(r"self\.(\w+)\((\w+)\)")
    known = [match for text in w.steps for match in calls.findall(text) if match[0] in w.parts]
    if not known:
        return False
    name, _ = w.choice(known)
    v = w.pick()
    return w.take(f"{w.new('v')} = self.{name}({v})")


@proposal("shared modules")
def shared_norm(w: Writer) -> bool:
    """A norm used in two branches, or a module under two names."""
    v = w.pick()
    _, c, height, width = w.shape(v)
    conv1, conv2, name, alias_name = w.new("conv"), w.new("convb"), w.new("norm"), w.new("normb")
    parts: dict[str, Any] = {
        conv1: w.conv_text(c, height, width, c, True),
        conv2: w.conv_text(c, height, width, c, True),
        name: w.norm_text(c),
    }
    second = name if w.chance(0.6) else alias_name
    setup = () if second == name else (f"self.{alias_name} = self.{name}",)
    a, b, t = w.new("v"), w.new("u"), w.new("t")
    if w.chance(0.4):
        last = w.choice((f"{t} = {a} + {b}", f"{t} = self.{second}({b} + {a})"))
        return w.take(
            f"{a} = self.{name}(self.{conv1}({v}))",
            f"{b} = self.{second}(self.{conv2}({v}))",
            last,
            parts=parts,
            setup=setup,
        )
    order = [
        f"{a} = self.{conv1}({v})",
        f"{b} = self.{conv2}({v})",
        f"{b} = self.{second}({b})",
        f"{a} = self.{name}({a})",
    ]
    return w.take(
        *order,
        w.choice((f"{t} = F.relu({a} + {b})", f"{t} = torch.cat(({a}, {b}), 1)")),
        parts=parts,
        setup=setup,
    )
