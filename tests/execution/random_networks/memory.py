"""What random networks do to values that share memory: aliases, views and writes into them."""

from __future__ import annotations

from tests.execution.random_networks.layers import conv_norm
from tests.execution.random_networks.programs import Program
from tests.execution.random_networks.writer import (
    Writer,
    proposal,
)


@proposal("aliases", 3)
def alias(w: Writer) -> bool:
    """Another name of the same memory; then one of them is written in place, and both are read again."""
    v = w.pick()
    t = w.new("a")
    name = w.new("same")
    parts: dict[str, str | Program] = {}
    c = w.shape(v)[1]
    texts = (
        "{v}",
        "{v}",
        "{v}",
        "{v}.detach()",
        "{v}.contiguous()",
        "{v}.view_as({v})",
        "{v}.to({v}.dtype)",
        "{v}.float() if {v}.dtype == torch.float32 else {v}",
        "{v}.reshape({v}.shape)",
        "{v}.expand_as({v})",
        "{v}[:]",
        "{v}[...]",
        "F.dropout({v}, 0.0, self.training)",
        "{v}.transpose(2, 3)",
        "{v}.permute(0, 2, 3, 1).permute(0, 3, 1, 2)",
        "{v}.clone()",
        "torch.narrow({v}, 1, 0, {c})",
    )
    modules = (
        "nn.Identity()",
        "nn.Dropout(0.0)",
        "nn.Sequential()",
        "pieces.Same()",
        "nn.Dropout(0.0, inplace=True)",
    )
    if w.chance(0.3):
        text, parts = f"self.{name}({v})", {name: w.choice(modules)}
    else:
        text = w.choice(texts).format(v=v, c=c)
    done = w.take(f"{t} = {text}", parts=parts)
    return done and _often_change(w, v, t, 0.7)


@proposal("views", 2)
def view(w: Writer) -> bool:
    """Some channels of a value, as a view; often one of both is written in place."""
    v = w.pick()
    c = w.shape(v)[1]
    if c < 2:
        return False
    t, k = w.new("s"), w.rng.randint(1, c - 1)
    text = w.choice(
        (
            f"{v}[:, :{k}]",
            f"{v}[:, {k}:]",
            f"{v}[:, -{k}:]",
            f"{v}[:, :-{k}]",
            f"{v}[:, ::2]",
            f"{v}[:, 1::2]",
            f"{v}.narrow(1, {k}, {c - k})",
            f"torch.narrow({v}, 1, 0, {k})",
            f"{v}[:, {k}:{k + 1}]",
            f"{v}.select(1, {k}).unsqueeze(1)",
            f"{v}[:, {k}][:, None]",
            f"{v}.index_select(1, torch.tensor([0, {k}]))",
            f"{v}[:, [0, {k}]]",
        )
    )
    done = w.take(f"{t} = {text}")
    return done and _often_change(w, v, t, 0.6)


@proposal("views", 2)
def chunks(w: Writer) -> bool:
    """Parts of a value; sums, shuffles and concatenations of them."""
    v = w.pick()
    c = w.shape(v)[1]
    if c < 2:
        return False
    k = w.rng.randint(1, c - 1)
    a, b, t = w.new("c"), w.new("d"), w.new("v")
    text = w.choice(
        (
            f"{a}, {b} = torch.split({v}, [{k}, {c - k}], 1)",
            f"{a}, {b} = {v}.split([{k}, {c - k}], dim=1)",
            f"{a}, {b} = {v}[:, :{k}], {v}[:, {k}:]",
            *(
                (
                    f"{a}, {b} = {v}.chunk(2, 1)",
                    f"{a}, {b} = torch.chunk({v}, 2, dim=1)",
                    f"{a}, {b} = torch.split({v}, {c // 2}, dim=1)",
                    f"{a}, {b} = pieces.halves_of({v})",
                    f"{a}, {b} = self.{w.new('two')}({v})",
                )
                if c % 2 == 0
                else ()
            ),
        )
    )
    parts: dict[str, str | Program] = {w.new("two"): "pieces.Halves()"} if "self.two" in text else {}
    if not w.take(text, parts=parts):
        return False
    if w.chance(0.5):
        change(w, w.choice((a, b, v)))
    if w.chance(0.5):
        conv_norm(w, w.choice((a, b)))
    if w.shape(a) == w.shape(b) and w.chance(0.5):
        w.take(w.choice((f"{b} = {b} + {a}", f"{b} += {a}", f"{a} = {b} + {a}", f"{a}.add_({b})")))
    w.take(w.choice((f"{t} = torch.cat(({a}, {b}), 1)", f"{t} = torch.cat([{b}, {v}, {a}], dim=1)")))
    w.note(v, a, b)
    return True


@proposal("slice writes")
def write_slice(w: Writer) -> bool:
    """A write into a part of a value."""
    v = w.pick()
    c = w.shape(v)[1]
    k = w.rng.randint(1, c)
    u = w.pick(like=v)
    text = w.choice(
        (
            f"{v}[:, :{k}] += {u}[:, :{k}]",
            f"{v}[:, :{k}] *= 0.5",
            f"{v}[:, {k - 1}] = 0",
            f"{v}[:, :{k}] = {u}[:, :{k}]",
            f"{v}[:, :{k}].relu_()",
            f"{v}[:, :{k}].mul_(0.5)",
            f"{v}.narrow(1, 0, {k}).relu_()",
            f"{v}.narrow(1, 0, {k}).add_({u}.narrow(1, 0, {k}))",
            f"{v}[:, :, 1:] *= 0.5",
            f"{v}[:, ::2].add_(0.5)",
            f"{v}.masked_fill_({v} < 0, 0.1)",
            f"{v}.chunk(2, 1)[0].add_(0.5)",
            f"torch.relu_({v}[:, :{k}])",
            f"F.relu({v}[:, :{k}], inplace=True)",
            f"{v}.view({v}.size(0), -1).mul_(0.5)",
            f"{v}.flatten(1).add_(0.3)",
            f"{v}.reshape({v}.size(0), -1).add_(0.3)",
            f"{v}.transpose(2, 3).mul_(0.5)",
            f"{v}.contiguous().mul_(0.5)",
            f"{v}.detach().mul_(0.5)",
            f"{v}.data.mul_(0.5)",
        )
    )
    done = w.take(text)
    if done:
        w.note(v)
    return done


def _often_change(w: Writer, v: str, t: str, probability: float) -> bool:
    """Write a value or what may be an alias of it in place, and let both be read again."""
    if w.chance(probability):
        change(w, w.choice((v, t)))
    w.note(v, t)
    return True


def change(w: Writer, v: str) -> bool:
    """Write a variable in place."""
    if w.values[v].dim() != 4:
        return False
    choice = w.rng.random()
    if choice < 0.5:
        text, parts = w.activation(v, w.shape(v)[1], True)
        return w.take(w.choice((text, f"{v} = {text}")), parts=parts)
    if choice < 0.75:
        try:
            u = w.pick(like=v)
        except LookupError:
            return False
        return w.take(w.choice((f"{v} += {u}", f"{v}.add_({u})")))
    if choice < 0.85 and "opaque" in w.features:
        name = w.new("opaque")
        part = w.choice(("pieces.Scaled()", "pieces.Rectified()"))
        return w.take(w.choice((f"self.{name}({v})", f"{v} = self.{name}({v})")), parts={name: part})
    return w.take(w.choice((f"{v} *= 0.5", f"{v} += 0.5", f"{v}.mul_(1.5)", f"{v} /= 2")))


@proposal("shapes")
def reshaped(w: Writer) -> bool:
    """Shuffles, permutations and reshapings, from which the same shape comes."""
    v = w.pick()
    c, t = w.shape(v)[1], w.target(v)
    g = w.choice([g for g in range(1, c + 1) if c % g == 0])
    n, name = f"{v}.size(0)", w.new("shuffle")
    sizes = f"{v}.size(2), {v}.size(3)"
    form = w.rng.random()
    if form < 0.2:
        back = w.choice(("contiguous().view", "reshape"))
        swapped = f"{v}.view(n, {g}, c // {g}, h, w).transpose(1, 2)"
        return w.take(f"n, c, h, w = {v}.shape", f"{t} = {swapped}.{back}(n, {w.choice(('c', '-1'))}, h, w)")
    if form < 0.3:
        return w.take(f"{t} = self.{name}({v})", parts={name: f"nn.ChannelShuffle({g})"})
    text = w.choice(
        (
            f"F.channel_shuffle({v}, {g})",
            f"{v}.view({n}, {g}, {c // g}, {sizes}).view({n}, {c}, {sizes})",
            f"{v}.reshape({n}, {g}, {c // g}, {sizes}).sum(1)",
            f"{v}.permute(0, 1, 3, 2)",
            f"{v}.permute(0, 3, 1, 2)",
            f"{v}.transpose(1, 2)",
            f"{v}.transpose(2, 3).contiguous()",
            f"{v}.flatten(2).unflatten(2, {v}.shape[2:])",
            f"{v}.view({n}, -1).view({n}, {c}, {sizes})",
            f"{v}.flatten(1).view_as({v})",
            f"{v}.unsqueeze(1).squeeze(1)",
            f"{v}.view(-1, *{v}.shape[1:])",
            f"torch.einsum('nchw->nchw', {v})",
            f"{v}.repeat(1, 2, 1, 1)",
        )
    )
    return w.take(f"{t} = {text}")


@proposal("core", 1)
def concat(w: Writer) -> bool:
    """A concatenation."""
    v = w.pick()
    names = [one for one in w.order if w.values[one].dim() == 4 and w.shape(one)[2:] == w.shape(v)[2:]]
    some = [v, *w.rng.sample(names, min(len(names), w.rng.randint(1, 2)))]
    if sum(w.shape(one)[1] for one in some) > 24:
        return False
    listed = ", ".join(some)
    text = w.choice(
        (f"torch.cat(({listed}), 1)", f"torch.cat([{listed}], dim=1)", f"torch.concat([{listed}], 1)")
    )
    return w.take(f"{w.new('v')} = {text}")
