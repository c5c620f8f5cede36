"""Code that no record says: it is kept as text, where that is a function of values and nothing else."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lasfast
from lasfast.costs.params import path_params
from lasfast.execution.from_fx import UntraceableError, read, trace
from lasfast.execution.to_fx import extract
from lasfast.ir.layers import Code
from lasfast.train.update import used_parts


class Net(nn.Module):
    """A convolution and a norm, and what the forwards below do to them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, 4))
        self.register_buffer("shift", torch.ones(4, 1, 1))

    def begin(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Scaled(Net):
    def forward(self, x):
        x = self.begin(x)
        return F.gelu(x * self.gamma.view(-1, 1, 1)) + self.shift


class OfThree(Net):
    """A sum of three values, which each are scaled."""

    def forward(self, x):
        x = self.begin(x)
        one, other = x.relu(), x.sigmoid()
        return x * 0.5 + one * 0.25 + other * 2


class NormalizesByFunction(Net):
    def forward(self, x):
        norm = self.norm
        x = self.conv(self.begin(x).repeat(1, 1, 1, 1)[:, :3])
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


class MixesImages(Net):
    def forward(self, x):
        x = self.begin(x)
        return x - x.mean(0, keepdim=True)


class ReversesImages(Net):
    def forward(self, x):
        return self.begin(x).flip(0)


class DecidesByOthers(Net):
    """A threshold that no random number reaches."""

    def forward(self, x):
        x = self.begin(x)
        return x * (x.amin() > -1000)


class DecidesBySpread(Net):
    def forward(self, x):
        x = self.begin(x)
        return x * torch.where((x.mean() < -9) | (x.var() > 99), 2, 1)


class ScalesByManyImages(Net):
    def forward(self, x):
        x = self.begin(x)
        return x * (x.shape[0] > 100) + x


class Draws(Net):
    def forward(self, x):
        return self.begin(x) + torch.rand_like(x[:, :1, 1:-1, 1:-1])


class FoldsImages(Net):
    def forward(self, x):
        return self.begin(x).reshape(-1, 2, 6, 6).sin()


class MakesALargeTensor(Net):
    def forward(self, x):
        return (self.begin(x).unsqueeze(1) * torch.linspace(0, 1, 1152).view(8, 4, 6, 6)).sum(1)


class ReadsWhatChangesLater(Net):
    """Code is read where its result is needed, which is after a value that it computes with was changed."""

    def forward(self, x):
        x = self.begin(x)
        y = torch.add(x, other=x.sigmoid(), alpha=3)
        x += x
        return y


class CopiesWhatChangesLater(Net):
    def forward(self, x):
        x = self.begin(x).mean((2, 3))
        y = x.clone()
        x = F.hardswish(x, inplace=True)
        return y + 0 * x


class ReadsOnBothSides(Net):
    """Two pieces of code read one value, before and after it is changed, and a third one reads both."""

    def forward(self, x):
        x = self.begin(x)
        one = x * 0.5
        x.mul_(0.25)
        other = x * 0.5
        return one * other.sin()


class JoinsWhatHasChanged(Net):
    """A part of a concatenation lies in memory that was changed, so that none of it is known."""

    def forward(self, x):
        x = self.begin(x)
        one, other = x[:, :2], x[:, 2:]
        other += one
        return torch.split(torch.cat([other, x, one], 1), 4, 1)[1].relu()


class WritesToABuffer(Net):
    def forward(self, x):
        x = self.begin(x)
        self.shift.copy_(x.detach().mean((0, 2, 3))[:, None, None])
        return x


class ViewsWhatIsTransposed(Net):
    """A view wants the strides that a record does not keep: those of `contiguous`."""

    def forward(self, x):
        x = self.begin(x).transpose(2, 3).contiguous()
        return x.view(-1, 4 * 6 * 6)


class JoinsThree(Net):
    def forward(self, x):
        x = self.begin(x)
        return torch.stack((x, x.relu(), x.sigmoid())).amax(0)


CHANGING = (ReadsWhatChangesLater, CopiesWhatChangesLater, ReadsOnBothSides)


def test_it_is_the_text_of_a_function() -> None:
    network = Scaled().eval()
    layer = trace(network, (3, 8, 8))
    code = layer.ops[2]
    assert isinstance(code, Code)
    assert (code.tensors, code.params, code.shape) == (("gamma", "shift"), 4, None)
    assert pickle.loads(pickle.dumps(layer)) == layer == trace(Scaled().eval(), (3, 8, 8))
    assert path_params((layer,)) == 3 * 4 * 9 + 8 + 4
    assert {id(weight) for weight, _ in used_parts(dict(network.named_modules()), [layer])} == {
        id(parameter) for parameter in network.parameters()
    }


@pytest.mark.parametrize("kind", [Scaled, OfThree, ViewsWhatIsTransposed, *CHANGING])
def test_an_extracted_network_computes_it(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    x = torch.randn(2, 3, 8, 8)
    statistics = {"norm": (network.norm.running_mean, network.norm.running_var)}
    alone = extract((trace(network, (3, 8, 8)),), network, statistics).eval()
    torch.testing.assert_close(alone(x), network(x))
    torch.testing.assert_close(alone(x.to(memory_format=torch.channels_last)), network(x))
    alone(x).square().sum().backward()
    assert dict(alone.named_parameters()).keys() <= dict(network.named_parameters()).keys()
    if kind is Scaled:
        assert alone.gamma.grad.abs().sum() > 0
        assert alone.gamma is not network.gamma


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (NormalizesByFunction, "it computes with 'norm.running_mean'"),
        (MixesImages, "mixes images of a batch"),
        (ReversesImages, "mixes images of a batch"),
        (DecidesByOthers, "mixes images of a batch"),
        (DecidesBySpread, "mixes images of a batch"),
        (ScalesByManyImages, "computes with the number of images"),
        (Draws, "draws random numbers"),
        (FoldsImages, "does not give one result for each image"),
        (MakesALargeTensor, "makes a tensor of 1152 elements"),
        (JoinsThree, "computes with 3 values at once"),
        (WritesToABuffer, "changes its images, parameters or buffers"),
    ],
)
def test_what_is_no_function_of_values_is_refused(kind: type[nn.Module], message: str) -> None:
    network = kind().eval()
    before, shift = torch.get_rng_state(), network.shift.clone()
    with pytest.raises(UntraceableError, match=message) as caught:
        trace(network, (3, 8, 8))
    text = str(caught.value)
    assert "the network's own forward" in text
    assert f"{__file__}:" in text
    assert "module of its own" in text
    assert "%" not in text
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(network.shift, shift)


class DecidesByWhatItKeeps(Net):
    """Its attribute holds, while it is traced, what only stands for a value."""

    def forward(self, x):
        x = self.begin(x)
        self.shift += x.detach().mean((0, 2, 3))[:, None, None]
        y = x - self.shift
        return y.relu() if y.dim() == 4 else y


def test_sizes_of_what_an_attribute_keeps_are_not_known() -> None:
    network = DecidesByWhatItKeeps().eval()
    with pytest.raises(UntraceableError, match="it computes with a value that an attribute keeps"):
        trace(network, (3, 8, 8))
    assert torch.equal(network.shift, torch.ones(4, 1, 1))


class AsksForTheSizeOfAGate(Net):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.fc, self.axis = nn.Linear(4, 4), axis

    def forward(self, x):
        x = self.begin(x)
        gate = self.fc(x.mean((2, 3))).sigmoid().view(-1, 4, 1, 1)
        gate = gate.reshape(gate.size(0), 2, 2, gate.size(self.axis), 1).reshape(-1, 4, 1, 1)
        return x * gate


@pytest.mark.parametrize("axis", [2, 3, -1])
def test_the_size_of_a_gate_is_not_that_of_features(axis: int) -> None:
    torch.manual_seed(0)
    network, x = AsksForTheSizeOfAGate(axis).eval(), torch.randn(2, 3, 8, 8)
    try:
        layer = trace(network, (3, 8, 8))
    except UntraceableError:
        return
    statistics = {"norm": (network.norm.running_mean, network.norm.running_var)}
    torch.testing.assert_close(extract((layer,), network, statistics).eval()(x), network(x))


def test_a_concatenation_of_what_has_changed_is_not_its_first_part() -> None:
    with pytest.raises(UntraceableError, match=r"is read after .* may have changed it"):
        trace(JoinsWhatHasChanged().eval(), (3, 8, 8))


class KeepsACount(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x * 2


class CountsCalls(Net):
    def __init__(self) -> None:
        super().__init__()
        self.counter = KeepsACount()

    def forward(self, x):
        x = self.begin(x)
        self.counter(x)
        return x


def test_a_module_that_changes_itself_is_named() -> None:
    """Else it would not be called where nothing reads what it gives, or be called another number of times."""
    network = CountsCalls().eval()
    with pytest.raises(UntraceableError, match="a KeepsACount, changes its buffer 'count' at each call"):
        trace(network, (3, 8, 8))
    assert lasfast.calibrate(network, [torch.randn(4, 3, 8, 8) for _ in range(3)]) == "torch"
    assert network.counter.count == 3


class Counts(Net):
    """It keeps a mean of its images in a buffer."""

    def forward(self, x):
        x = self.begin(x)
        self.shift.copy_(x.mean((0, 2, 3)).view(-1, 1, 1))
        return x


def test_trying_code_leaves_buffers_alone() -> None:
    network = Counts().eval()
    with pytest.raises(UntraceableError):
        trace(network, (3, 8, 8))
    assert torch.equal(network.shift, torch.ones(4, 1, 1))


class Sized(Net):
    """It decides by what `asks` gives."""

    def __init__(self, asks) -> None:
        super().__init__()
        self.asks = asks

    def forward(self, x):
        x = self.begin(x)
        return x * 2 if self.asks(x) else x


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.shape[2] > 5,
        lambda x: x.size(-1) % 2 == 0 and x.ndim == 4,
        lambda x: [0] * int(x.shape[2]) == [0] * 6,
        lambda x: len(range(x.shape[3])) == 6,
        lambda x: x.shape != (1, 1, 1, 1) and x.shape == x.size() and x.numel() > 0,
        lambda x: str(x.device) == "cpu",
    ],
)
def test_sizes_decide_for_images_of_one_shape(asks) -> None:
    network = Sized(asks).eval()
    x = torch.randn(2, 3, 8, 8)
    program = read(network, (3, 8, 8))
    assert len(program.layer.ops) == 3
    assert program.of_one_size == ("device" not in asks.__code__.co_names)
    assert network.asks(torch.zeros(2, 4, 6, 6))
    assert network(x).shape == (2, *program.layer.shapes((3, 8, 8))[-1])


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.shape[0] > 2,
        lambda x: x.shape[0] > 100,
        lambda x: max(1, x.shape[0] - 100) > 1,
        lambda x: x.shape == (100, 4, 6, 6),
        lambda x: x.shape[0] // 100 == 0,
        lambda x: x.dtype == torch.float32,
        lambda x: bool(x.sum() > 0),
    ],
)
def test_neither_numbers_of_images_nor_dtypes_nor_values_decide(asks) -> None:
    with pytest.raises(UntraceableError, match=r"number of images|dtype|control flow") as caught:
        trace(Sized(asks).eval(), (3, 8, 8))
    assert f"{__file__}:" in str(caught.value)
