"""What random networks are made of: convolutions, norms, activations, pools, sums and gates."""

from __future__ import annotations

from typing import Any

from tests.execution.random_networks.activations import ACTIVATION_MODULES, inplace_form
from tests.execution.random_networks.programs import Program
from tests.execution.random_networks.writer import Writer, proposal, reader

# ---- convolutions, norms and activations


@proposal("core", 6)
@reader
def conv_norm(w: Writer, v: str | None = None) -> bool:
    """Convolution, batch norm, and mostly an activation, in one expression or several statements."""
    v = v or w.pick()
    _, c, height, width = w.shape(v)
    other = w.pick(like=v) if w.chance(0.2) else None
    same = w.chance(0.5)
    out = c if same and w.chance(0.6) else w.rng.randint(1, 12)
    conv, norm_name, t = w.new("conv"), w.new("norm"), w.target(v)
    parts: dict[str, Any] = {conv: w.conv_text(c, height, width, out, same), norm_name: w.norm_text(out)}
    form = w.rng.random()
    if form < 0.2:
        name = w.new("seq")
        inner = list(parts.values()) + ([inplace_form(w.simple(ACTIVATION_MODULES))] if w.chance(0.7) else [])
        return w.take(f"{t} = self.{name}({v})", parts={name: f"nn.Sequential({', '.join(inner)})"})
    if form < 0.3 and "ours" in w.features:
        name = w.new("ours")
        act = w.choice(("'relu'", "'none'", "'hardswish'"))
        return w.take(
            f"{t} = self.{name}({v})", parts={name: f"lasfast.nn.ConvBNAct({c}, {out}, activation={act})"}
        )
    if form < 0.6:
        text, more = w.activation(f"self.{norm_name}(self.{conv}({v}))", out)
        return w.take(f"{t} = {text}", parts=parts | more)
    steps = [f"{t} = self.{conv}({v})", f"{t} = self.{norm_name}({t})"]
    if other is not None and out == c and other != t:
        steps.append(w.choice((f"{t} = {t} + {other}", f"{t} = {other} + {t}", f"{t} += {other}")))
    more = {}
    if w.chance(0.7):
        text, more = w.activation(t, out)
        steps.append(f"{t} = {text}")
    return w.take(*steps, parts=parts | more)


@proposal("core", 1.5)
@reader
def norm(w: Writer, v: str | None = None) -> bool:
    """A norm, which often reads what others read, too."""
    v = v or w.pick()
    name = w.new("norm")
    variance = w.values[v].transpose(0, 1).flatten(1).var(1) if w.values[v].dim() == 4 else None
    if variance is not None and float(variance.min()) < 1e-3:
        return False
    return w.take(f"{w.target(v)} = self.{name}({v})", parts={name: w.norm_text(w.shape(v)[1])})


@proposal("core", 1)
def conv(w: Writer) -> bool:
    """A convolution alone."""
    v = w.pick()
    _, c, height, width = w.shape(v)
    name = w.new("conv")
    return w.take(f"{w.target(v)} = self.{name}({v})", parts={name: w.conv_text(c, height, width)})


@proposal("core", 2)
def activation(w: Writer) -> bool:
    """An activation; in place, what it changed is read again."""
    v = w.pick()
    in_place = w.chance(0.6)
    text, parts = w.activation(v, w.shape(v)[1], in_place)
    t = w.target(v)
    if in_place and w.chance(0.3):
        done = w.take(text, parts=parts)
        t = v
    else:
        done = w.take(f"{t} = {text}", parts=parts)
    if done and in_place:
        w.note(v, t)
    return done


@proposal("odd convolutions")
def transposed(w: Writer) -> bool:
    """A transposed convolution."""
    v = w.pick()
    name, c = w.new("up"), w.shape(v)[1]
    out = w.rng.randint(1, 8)
    text = w.choice(
        (f"nn.ConvTranspose2d({c}, {out}, 2, 2)", f"nn.ConvTranspose2d({c}, {out}, 3, padding=1)")
    )
    return w.take(f"{w.target(v)} = self.{name}({v})", parts={name: text})


@proposal("odd convolutions")
def functional_conv(w: Writer) -> bool:
    """A convolution by a parameter, or by the weight of a module that is not called."""
    v = w.pick()
    name, c = w.new("weight"), w.shape(v)[1]
    out = w.rng.randint(1, 8)
    if w.chance(0.5):
        part, weight = f"nn.Parameter(torch.randn({out}, {c}, 3, 3) * 0.2)", f"self.{name}"
    else:
        part, weight = f"nn.Conv2d({c}, {out}, 3)", f"self.{name}.weight"
    return w.take(f"{w.target(v)} = F.conv2d({v}, {weight}, padding=1)", parts={name: part})


@proposal("other norms")
def other_norm(w: Writer) -> bool:
    """A norm that is no batch norm."""
    v = w.pick()
    _, c, height, width = w.shape(v)
    groups = w.choice([g for g in range(1, c + 1) if c % g == 0])
    text = w.choice(
        (
            f"nn.GroupNorm({groups}, {c})",
            f"nn.InstanceNorm2d({c})",
            f"nn.InstanceNorm2d({c}, affine=True, track_running_stats=True)",
            f"nn.LayerNorm([{c}, {height}, {width}])",
            "nn.LocalResponseNorm(3)",
        )
    )
    if min(height, width) < 2:
        return False
    name = w.new("other")
    return w.take(f"{w.target(v)} = self.{name}({v})", parts={name: text})


@proposal("other norms")
def flat_norm(w: Writer) -> bool:
    """A batch norm of two or three dimensions."""
    v = w.pick()
    name, c = w.new("flat"), w.shape(v)[1]
    parts = {name: f"nn.BatchNorm1d({c})"}
    form = w.choice(
        (
            "F.adaptive_avg_pool2d({v}, 1).flatten(1)",
            "{v}.mean((2, 3))",
            "{v}.flatten(2)",
        )
    ).format(v=v)
    t = w.new("f")
    return w.take(f"{t} = self.{name}({form})", parts=parts)


# ---- pools and sizes


@proposal("pools", 2)
def pool(w: Writer) -> bool:
    """A pool, as module or function."""
    v = w.pick(least=2)
    kernel, stride = w.choice(((2, 2), (3, 2), (3, 1), (2, 1)))
    padding = w.choice((0, 1)) if kernel == 3 else 0
    options = [f"{kernel}, {stride}, {padding}"]
    kind = w.choice(("Max", "Avg"))
    if w.chance(0.25):
        options.append("ceil_mode=True")
    if kind == "Avg" and w.chance(0.4):
        options.append("count_include_pad=False")
    if kind == "Avg" and w.chance(0.1):
        options.append("divisor_override=3")
    t, name = w.target(v), w.new("pool")
    if w.chance(0.6):
        return w.take(f"{t} = self.{name}({v})", parts={name: f"nn.{kind}Pool2d({', '.join(options)})"})
    return w.take(f"{t} = F.{kind.lower()}_pool2d({v}, {', '.join(options)})")


@proposal("pools")
def adaptive_pool(w: Writer) -> bool:
    """An adaptive pool to one place, or to several."""
    v = w.pick()
    size = w.choice(("1", "1", "(1, 1)", "2", "(2, 3)", "(None, 2)"))
    kind = w.choice(("Avg", "Avg", "Max"))
    t, name = w.target(v), w.new("pool")
    if w.chance(0.6):
        return w.take(f"{t} = self.{name}({v})", parts={name: f"nn.Adaptive{kind}Pool2d({size})"})
    return w.take(f"{t} = F.adaptive_{kind.lower()}_pool2d({v}, {size})")


@proposal("pools")
def resize(w: Writer) -> bool:
    """An interpolation, padding or pixel shuffle."""
    v = w.pick(least=2)
    c = w.shape(v)[1]
    other = w.pick()
    text = w.choice(
        (
            f"F.interpolate({v}, scale_factor=2)",
            f"F.interpolate({v}, size=(6, 7), mode='bilinear', align_corners=False)",
            f"F.interpolate({v}, size={other}.shape[2:])",
            f"F.pad({v}, (1, 1, 1, 1))",
            f"F.pad({v}, (0, 1, 0, 1), mode='replicate')",
            f"F.pad({v}, (0, 0, 0, 0, 0, 2))",
            f"F.pad({v}, (-1, 1, -1, 1))",
            f"F.pixel_unshuffle({v}, 2)",
            f"F.unfold({v}, 3, padding=1).view({v}.size(0), {9 * c}, {v}.size(2), {v}.size(3))",
            f"{v}[:, :, 1:, :-1]",
            f"{v}[..., ::2, ::2]",
            f"{v}.roll(1, 2)",
            f"{v}.flip(3)",
        )
    )
    t = w.target(v)
    if w.chance(0.3):
        name = w.new("up")
        part = w.choice(
            ("nn.Upsample(scale_factor=2)", "nn.ZeroPad2d((0, 1, 0, 1))", "nn.ReflectionPad2d(1)")
        )
        return w.take(f"{t} = self.{name}({v})", parts={name: part})
    return w.take(f"{t} = {text}")


# ---- sums and products


@proposal("core", 2)
@reader
def add(w: Writer, v: str | None = None) -> bool:
    """A sum of two variables, in place or not."""
    v = v or w.pick()
    u = w.pick(like=v)
    t = w.target(v)
    in_place = w.chance(0.5)
    if in_place:
        text = w.choice(
            (
                f"{v} += {u}",
                f"{v} += {u}",
                f"{v}.add_({u})",
                f"{t} = {v}.add_({u})",
                f"{v}.add_({u}, alpha=2)",
                f"{v} -= {u}",
                f"{v}.sub_({u})",
                f"{t} = operator.iadd({v}, {u})",
                f"{v}.copy_({u})",
            )
        )
        done = w.take(text)
        if done:
            w.note(v, u)
        return done
    text = w.choice(
        (
            f"{v} + {u}",
            f"{v} + {u}",
            f"torch.add({v}, {u})",
            f"{v}.add({u})",
            f"torch.add({v}, {u}, alpha=2)",
            f"torch.add({v}, other={u})",
            f"{v} - {u}",
            f"torch.sub({v}, {u})",
            f"torch.maximum({v}, {u})",
            f"torch.stack([{v}, {u}]).sum(0)",
            f"sum([{v}, {u}])",
        )
    )
    return w.take(f"{t} = {text}")


@proposal("arithmetic")
def number(w: Writer) -> bool:
    """Arithmetic with a number, a parameter or a buffer."""
    v = w.pick()
    c, t, name = w.shape(v)[1], w.target(v), w.new("p")
    parts: dict[str, str | Program] = {}
    if w.chance(0.5):
        other = w.choice(("0.5", "2", "1.5"))
    else:
        shape = w.choice((f"(1, {c}, 1, 1)", f"({c}, 1, 1)", "(1,)", "()"))
        other = f"self.{name}"
        parts = {name: f"nn.Parameter(torch.rand{shape if shape != '()' else '([])'} + 0.5)"}
    setup: tuple[str, ...] = ()
    if parts and w.chance(0.25):
        parts, setup = {}, (f"self.register_buffer('{name}', torch.rand(1, {c}, 1, 1) + 0.5)",)
    if w.chance(0.5):
        text = w.choice(
            ("{v} + {o}", "{o} + {v}", "{v} * {o}", "{o} * {v}", "{v} / {o}", "{v} - {o}", "{o} - {v}")
        )
        return w.take(f"{t} = {text.format(v=v, o=other)}", parts=parts, setup=setup)
    text = w.choice(
        ("{v} += {o}", "{v} *= {o}", "{v} /= {o}", "{v} -= {o}", "{v}.mul_({o})", "{v}.add_({o})")
    )
    done = w.take(text.format(v=v, o=other), parts=parts, setup=setup)
    if done:
        w.note(v)
    return done


@proposal("gates")
def gate(w: Writer) -> bool:
    """Squeeze and excitation, in the ways that people write it."""
    v = w.pick()
    c, t, fc, g = w.shape(v)[1], w.target(v), w.new("fc"), w.new("gate")
    if w.chance(0.4):
        name = w.new("se")
        done = w.take(f"{t} = self.{name}({v})", parts={name: f"pieces.Gate({c})"})
        if done:
            w.note(v, t)
        return done
    if w.chance(0.5):
        pooled = w.choice((f"{v}.mean((2, 3))", f"F.adaptive_avg_pool2d({v}, 1).flatten(1)"))
        axes = w.choice(
            ("[:, :, None, None]", f".view({v}.size(0), {c}, 1, 1)", ".unsqueeze(-1).unsqueeze(-1)")
        )
        gated, parts = f"self.{fc}({pooled}).sigmoid(){axes}", {fc: f"nn.Linear({c}, {c})"}
    else:
        pooled = w.choice((f"{v}.mean((2, 3), keepdim=True)", f"F.adaptive_avg_pool2d({v}, 1)"))
        gated, parts = f"torch.sigmoid(self.{fc}({pooled}))", {fc: f"nn.Conv2d({c}, {c}, 1)"}
    last = w.choice(
        (
            f"{t} = {v} * {g}",
            f"{t} = {g} * {v}",
            f"{t} = torch.mul({v}, {g})",
            f"{v} *= {g}",
            f"{v}.mul_({g})",
        )
    )
    done = w.take(f"{g} = {gated}", last, parts=parts)
    if done and not last.startswith(f"{t} ="):
        w.note(v)
    return done


@proposal("gates", 0.2)
def product(w: Writer) -> bool:
    """A product of two variables of one shape."""
    v = w.pick()
    u, t = w.pick(like=v), w.target(v)
    return w.take(w.choice((f"{t} = {v} * {u}.sigmoid()", f"{t} = {v} * {u}", f"{v} *= {u}.sigmoid()")))
