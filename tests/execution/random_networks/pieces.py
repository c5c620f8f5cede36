"""What random networks have beside torch's modules: modules, hooks and functions as people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainConv(nn.Conv2d):
    """A convolution of another name, as quantization toolkits and registries have them."""


class StandardisedConv(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019), by a view of the weight."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(self.weight.size(0), -1)
        weight = (self.weight - flat.mean(1).view(-1, 1, 1, 1)) / (flat.std(1).view(-1, 1, 1, 1) + 1e-2)
        return self._conv_forward(x, weight, self.bias)


class HalvedConv(nn.Conv2d):
    """A convolution that changes a step of torch's forward."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * 0.5, bias)


class PlainNorm(nn.BatchNorm2d):
    """A batch norm of another name."""


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation, written out as timm does."""

    def forward(self, x: Tensor) -> Tensor:
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        mean, variance = self.running_mean, self.running_var
        y = F.batch_norm(
            x,
            mean,
            variance,
            self.weight,
            self.bias,
            self.training or mean is None,
            momentum,
            self.eps,
        )
        return F.relu(y, inplace=True)


class NormThenRelu(nn.BatchNorm2d):
    """A batch norm with an activation, by torch's own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.1)


class Elastic(nn.Module):
    """A batch norm whose leading channels are used, as once-for-all does."""

    def __init__(self, channels: int, active: int) -> None:
        super().__init__()
        self.norm, self.active = nn.BatchNorm2d(channels), active

    def forward(self, x: Tensor) -> Tensor:
        return elastic(self.norm, x[:, : self.active], self.active)


def elastic(norm: nn.BatchNorm2d, x: Tensor, active: int) -> Tensor:
    """Apply the leading channels of a norm as torch applies all of them."""
    factor = 0.0
    if norm.training:
        norm.num_batches_tracked += 1
        factor = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    buffers = norm.running_mean[:active], norm.running_var[:active]
    return F.batch_norm(
        x, *buffers, norm.weight[:active], norm.bias[:active], norm.training, factor, norm.eps
    )


class FrozenNorm(nn.Module):
    """A batch norm as detectors freeze it: its buffers, applied by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        shift = self.norm.bias - self.norm.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class PlainReLU(nn.ReLU):
    """An activation of another name."""


class ByMode(nn.Module):
    """A module that computes something else in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 + 0.1 if self.training else x


class ByModeInPlace(nn.Module):
    """A module that changes its input in training alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.5) if self.training else x


class Gate(nn.Module):
    """Squeeze and excitation, in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        x *= self.fc(x.mean((2, 3))).sigmoid().view(n, c, 1, 1)
        return x


class Halves(nn.Module):
    """A module that gives two values, both parts of its input."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = x.shape[1] // 2
        return x[:, :half], x[:, half:]


class Joined(nn.Module):
    """A module of several inputs, some of which may be left out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, other: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        y = self.norm(self.conv(x))
        if other is not None:
            y += other
        return y * scale


class Concatenated(nn.Module):
    """A module that takes a list, as detectors' necks do."""

    def forward(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, 1)


class Named(nn.Module):
    """A module that gives a dictionary."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"plain": x, "norm": self.norm(x)}


class Counting(nn.Module):
    """A module that counts its calls, and computes with the count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1 + 0.1 * self.calls)


class Averaging(nn.Module):
    """A module that keeps an average in a buffer, whatever its mode is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.average.mul_(0.5).add_(x.detach().mean((0, 2, 3), keepdim=True), alpha=0.5)
        return x - 0.5 * self.average


class WithoutGradient(nn.Module):
    """A frozen stem."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Reversal(torch.autograd.Function):
    """The identity, with the gradient reversed (Ganin et al. 2015)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return -grad


class Reversed(nn.Module):
    """A module of a function with a gradient of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return Reversal.apply(x)


# ---- modules that torch.fx cannot follow: their control flow depends on the values


class Cumulated(nn.Module):
    """Gives a new value."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.detach().sum()) > 1e9 else x.cumsum(3).tanh()


class Normalised(nn.Module):
    """Holds a convolution and a batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y if float(y.detach().sum()) > 1e9 else y.tanh()


class Scaled(nn.Module):
    """Changes its input in place, and gives it."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.detach().sum()) > 1e9 else x.mul_(1.5)


class Rectified(nn.Module):
    """Changes a part of its input in place, and gives a new value."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().sum()) > 1e9:
            return x
        x[:, : (x.shape[1] + 1) // 2].relu_()
        return x * 0.5


class Same(nn.Module):
    """Gives its input itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if float(x.detach().sum()) > 1e9 else x


class Leading(nn.Module):
    """Gives a view of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.detach().sum()) > 1e9 else x[:, : (x.shape[1] + 1) // 2]


class TwoHeads(nn.Module):
    """Gives two values, one of which is its input."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x, x) if float(x.detach().sum()) > 1e9 else (x, x.tanh())


# ---- hooks, parametrizations and replaced forwards


def shift_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A pre-hook that gives another input."""
    return (inputs[0] * 1.5 + 0.2,)


def shift_input_in_place(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A pre-hook that changes the input in place."""
    inputs[0].mul_(1.5)


def double_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A hook that gives another output."""
    return output * 2 + 0.1


def double_output_in_place(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """A hook that changes the output in place."""
    output.mul_(2)


def see_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """A hook that keeps the output, as feature extractors do."""
    module.seen = output


def scale_gradient(module: nn.Module, given: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> tuple:
    """A backward hook."""
    return tuple(None if one is None else one * 0.5 for one in given)


class Softened(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.tanh() * 1.5


class ClippedForward:
    """Takes the place of a module's forward."""

    def __init__(self, module: nn.Module) -> None:
        self.forward = type(module).forward
        self.module = [module]

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(self.module[0], x.clamp(-1, 1))


def squash(x: Tensor) -> Tensor:
    """A function of several steps, one of them in place."""
    y = x * 0.5
    y += x.tanh()
    return y


def halves_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """A function that gives two values."""
    one, other = torch.chunk(x, 2, 1)
    return other, one
