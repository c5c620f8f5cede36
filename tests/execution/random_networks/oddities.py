"""What random networks do and layer records cannot say: hooks, modes, modules that fx cannot follow."""

from __future__ import annotations

from typing import Any

from tests.execution.random_networks.memory import change
from tests.execution.random_networks.writer import Writer, hook_text, proposal


@proposal("opaque", 2)
def opaque(w: Writer) -> bool:
    """A module that torch.fx cannot follow; it may change its input, or give it or a part of it."""
    v = w.pick()
    name, t, u = w.new("opaque"), w.target(v), w.new("v")
    kind = w.choice(("Cumulated", "Scaled", "Rectified", "Same", "Leading", "TwoHeads"))
    if w.chance(0.1):
        return w.take(f"{t} = self.{name}({v})", parts={name: f"pieces.Normalised({w.shape(v)[1]})"})
    left = f"{t}, {u}" if kind == "TwoHeads" and t != u else t
    done = w.take(f"{left} = self.{name}({v})", parts={name: f"pieces.{kind}()"})
    if done:
        w.note(v, t)
    return done


@proposal("lazy norms")
def norm_then_write(w: Writer) -> bool:
    """A norm whose input is written in place before its output is read."""
    v = w.pick()
    c = w.shape(v)[1]
    variance = w.values[v].transpose(0, 1).flatten(1).var(1)
    if float(variance.min()) < 1e-3:
        return False
    name, t, u = w.new("norm"), w.new("v"), w.new("u")
    if not w.take(f"{t} = self.{name}({v})", parts={name: w.norm_text(c)}):
        return False
    change(w, w.choice((v, v, t)))
    return w.take(w.choice((f"{u} = {t} + {v}", f"{u} = {t}.relu()", f"{u} = torch.cat(({v}, {t}), 1)")))


@proposal("modes")
def by_mode(w: Writer) -> bool:
    """What differs between training and evaluation, in modules or in the forward itself."""
    v = w.pick()
    t, name = w.target(v), w.new("mode")
    if w.chance(0.7):
        kind = w.choice(("pieces.ByMode()", "pieces.ByModeInPlace()", "nn.Dropout(0.0)", "nn.Dropout2d(0.0)"))
        done = w.take(f"{t} = self.{name}({v})", parts={name: kind})
        if done:
            w.note(v, t)
        return done
    text = w.choice(
        (
            "{v} * 0.5 if self.training else {v}",
            "F.dropout({v}, 0.0, self.training)",
            "F.dropout({v}, 0.0, training=self.training, inplace=True)",
            "{v}.mul_(0.5) if self.training else {v}",
        )
    )
    return w.take(f"{t} = {text.format(v=v)}")


@proposal("hooks", 2)
def hooked(w: Writer) -> bool:
    """A convolution and a norm, one of which has a hook, a parametrization or a replaced forward."""
    v = w.pick()
    _, c, height, width = w.shape(v)
    conv_name, norm_name, act, t = w.new("conv"), w.new("norm"), w.new("act"), w.target(v)
    out = w.rng.randint(2, 8)
    parts: dict[str, Any] = {
        conv_name: w.conv_text(c, height, width, out),
        norm_name: w.norm_text(out),
        act: w.choice(("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.Hardswish()")),
    }
    name = w.choice((conv_name, norm_name, act))
    form = w.rng.random()
    if form < 0.35:
        setup = hook_text(w, name)
    elif form < 0.5:
        setup = f"self.{name}.forward = pieces.ClippedForward(self.{name})"
    else:
        weighed = w.choice((conv_name, conv_name, norm_name))
        setup = w.choice(
            (
                f"prune.l1_unstructured(self.{weighed}, 'weight', 0.5)",
                f"prune.random_unstructured(self.{weighed}, 'weight', 0.3)",
                f"parametrize.register_parametrization(self.{weighed}, 'weight', pieces.Softened())",
                f"torch.nn.utils.weight_norm(self.{conv_name})",
                f"torch.nn.utils.spectral_norm(self.{conv_name})",
                f"parametrizations.weight_norm(self.{conv_name})",
                f"parametrizations.spectral_norm(self.{conv_name})",
            )
        )
    if w.chance(0.5):
        steps = (f"{t} = self.{act}(self.{norm_name}(self.{conv_name}({v})))",)
        return w.take(*steps, parts=parts, setup=(setup,))
    return w.take(
        f"{t} = self.{conv_name}({v})",
        f"{t} = self.{norm_name}({t})",
        f"{t} = self.{act}({t})",
        parts=parts,
        setup=(setup,),
    )


@proposal("contexts", 2)
def in_context(w: Writer) -> bool:
    """A part without gradients, or under autocast, or with a gradient of its own."""
    v = w.pick()
    _, c, height, width = w.shape(v)
    t, name = w.target(v), w.new("part")
    form = w.rng.random()
    if form < 0.3:
        text = w.choice((f"pieces.WithoutGradient({c})", "pieces.Reversed()"))
        return w.take(f"{t} = self.{name}({v})", parts={name: text})
    if form < 0.4:
        return w.take(f"{t} = pieces.Reversal.apply({v})")
    context = w.choice(
        (
            "torch.no_grad()",
            "torch.no_grad()",
            "torch.set_grad_enabled(self.training)",
            "torch.set_grad_enabled(False)",
            "torch.autocast('cpu', enabled=False)",
            "torch.autocast('cpu', torch.bfloat16, enabled=False)",
        )
    )
    parts: dict[str, Any] = {
        name: w.conv_text(c, height, width, c, True),
        w.new("norm"): w.norm_text(c),
    }
    conv, norm = parts
    inner = w.choice((f"F.relu(self.{norm}(self.{conv}({v})))", f"self.{norm}({v})", f"self.{conv}({v})"))
    return w.take(f"with {context}: {t} = {inner}", parts=parts)


@proposal("several inputs", 2)
def several_inputs(w: Writer) -> bool:
    """Modules that take several values, or give them."""
    v = w.pick()
    c, t, name = w.shape(v)[1], w.target(v), w.new("join")
    u = w.pick(like=v)
    form = w.rng.random()
    if form < 0.5:
        arguments = w.choice((f"{v}, {u}", f"{v}, other={u}", f"{v}, {u}, scale=0.5", v, f"x={v}, other={u}"))
        return w.take(f"{t} = self.{name}({arguments})", parts={name: f"pieces.Joined({c})"})
    if form < 0.65:
        return w.take(f"{t} = self.{name}([{v}, {u}])", parts={name: "pieces.Concatenated()"})
    if form < 0.8:
        key = w.choice(("plain", "norm"))
        return w.take(f"{t} = self.{name}({v})['{key}']", parts={name: f"pieces.Named({c})"})
    text = f"lasfast.nn.ConvBNAct({c}, {c}, activation='relu')"
    residual = w.choice((f"residual={u}", f"{c}, {u}", f"c_out={c}"))
    return w.take(f"{t} = self.{name}({v}, {residual})", parts={name: text})


@proposal("state")
def stateful(w: Writer) -> bool:
    """Modules and forwards that remember something from call to call."""
    v = w.pick()
    c, t, name = w.shape(v)[1], w.target(v), w.new("state")
    form = w.rng.random()
    if form < 0.5:
        text = w.choice(("pieces.Counting()", f"pieces.Averaging({c})"))
        return w.take(f"{t} = self.{name}({v})", parts={name: text})
    if form < 0.7:
        return w.take(f"self.kept = {v}", f"{t} = self.kept * 0.5 + {v}")
    setup = (f"self.register_buffer('{name}', torch.zeros(1, {c}, 1, 1))",)
    write_ = w.choice(
        (
            f"self.{name}.copy_({v}.detach().mean((0, 2, 3), keepdim=True))",
            f"self.{name} = {v}.detach().mean((0, 2, 3), keepdim=True)",
            f"self.{name} += {v}.detach().mean((0, 2, 3), keepdim=True)",
        )
    )
    return w.take(write_, f"{t} = {v} - 0.5 * self.{name}", setup=setup)


@proposal("flat values", 2)
def flat_layers(w: Writer) -> bool:
    """Linear layers, norms and activations of two dimensions."""
    try:
        v = w.pick(dims=2)
    except LookupError:
        v = w.new("f")
        if not w.take(f"{v} = {w.pick()}.mean((2, 3))"):
            return False
    features, t = w.shape(v)[1], w.target(v)
    out = w.rng.randint(2, 8)
    fc, norm = w.new("fc"), w.new("flat")
    parts: dict[str, Any] = {fc: f"nn.Linear({features}, {out})", norm: f"nn.BatchNorm1d({out})"}
    text, more = w.activation(f"self.{norm}(self.{fc}({v}))", out)
    if not w.take(f"{t} = {text}", parts=parts | more):
        return False
    if w.chance(0.5):
        text, more = w.activation(t, out, True)
        return w.take(text, parts=more)
    return True


@proposal("uncalled norms")
def uncalled_norm(w: Writer) -> bool:
    """Norms whose statistics are used without a call of the norm."""
    v = w.pick()
    c, t, name = w.shape(v)[1], w.target(v), w.new("norm")
    more = c + w.rng.randint(0, 3)
    form = w.rng.random()
    if form < 0.4:
        return w.take(
            f"{t} = self.{name}({v})", parts={name: f"pieces.Elastic({more}, {w.rng.randint(1, c)})"}
        )
    if form < 0.7:
        return w.take(f"{t} = pieces.elastic(self.{name}, {v}, {c})", parts={name: f"nn.BatchNorm2d({more})"})
    if form < 0.85:
        return w.take(f"{t} = self.{name}({v})", parts={name: f"pieces.FrozenNorm({c})"})
    n = f"self.{name}"
    return w.take(
        f"{t} = F.batch_norm({v}, {n}.running_mean, {n}.running_var, {n}.weight, {n}.bias)",
        parts={name: f"nn.BatchNorm2d({c})"},
    )


@proposal("functions")
def function(w: Writer) -> bool:
    """Functions of the network's file, and values without memory of their own."""
    v = w.pick()
    t, c = w.target(v), w.shape(v)[1]
    text = w.choice(
        (
            f"pieces.squash({v})",
            f"{v} + torch.ones_like({v})",
            f"torch.zeros_like({v}) + {v}",
            f"{v} * torch.linspace(0.5, 1.5, {c}).view(1, -1, 1, 1).to({v}.dtype)",
            f"torch.where({v} > 0, {v}, {v} * 0.1)",
            f"{v} - {v}.mean((2, 3), keepdim=True)",
            f"{v} / ({v}.std() + 1)",
            f"{v} - {v}.amax(1, keepdim=True)",
            f"{v} + {v}.mean(1, keepdim=True)",
            f"torch.utils.checkpoint.checkpoint(pieces.squash, {v}, use_reentrant=False)",
        )
    )
    return w.take(f"{t} = {text}")


@proposal("spare parts")
def spare(w: Writer) -> bool:
    """Parts that forward does not use, frozen ones, and norms in evaluation mode."""
    name = w.new("spare")
    norms = [one for one in w.parts if one.startswith("norm")]
    if norms and w.chance(0.6):
        one = w.choice(norms)
        text = w.choice(
            (
                f"self.{one}.eval()",
                f"self.{one}.requires_grad_(False)",
                f"self.{one}.bias.requires_grad_(False)",  # its weight may be computed
            )
        )
        return w.take(setup=(text,))
    if w.chance(0.3):
        return w.take(setup=(f"self.register_buffer('{name}', torch.zeros(()))",))
    part = w.choice(
        (
            "nn.Linear(3, 2)",
            "nn.Parameter(torch.ones(3))",
            "nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))",
        )
    )
    return w.take(parts={name: part})
