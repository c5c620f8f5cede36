"""`ConvBNAct` and `SlicedLinear` against torch's modules, whole and sliced."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lasfast.nn import ConvBNAct, SlicedLinear
from lasfast.ops.activations import MODULES


def theirs_like(ours: ConvBNAct, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The sequence of torch's modules with the same weights."""
    conv, norm, act = ours
    torchs = nn.Sequential(
        nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            groups=conv.groups,
            bias=False,
        ),
        nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum),
        type(act)(),
    )
    torchs.load_state_dict(ours.state_dict())
    return torchs.to(dtype).train(ours.training)


def shake(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return module


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", MODULES)
@pytest.mark.parametrize(
    "arguments",
    [(5, 7), (5, 7, 3, 2), (6, 6, 3, 1, None, 6), (4, 8, 1), (8, 4, 5, 1, 0, 2)],
    ids=["plain", "stride", "depthwise", "pointwise", "groups"],
)
def test_it_is_the_sequence_of_torch(arguments: tuple, activation: str, training: bool) -> None:
    torch.manual_seed(0)
    ours = shake(ConvBNAct(*arguments, activation=activation)).train(training)
    theirs = theirs_like(ours)
    x = torch.randn(3, arguments[0], 9, 8, requires_grad=True)
    y = x.detach().double().requires_grad_()
    result, expected = ours(x), theirs(y)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)
    gradient = torch.randn_like(expected)
    result.backward(gradient.float())
    expected.backward(gradient)
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-3)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine.to(other.dtype), other, rtol=1e-5, atol=1e-6)


def test_state_dicts_move_both_ways() -> None:
    ours = ConvBNAct(3, 8)
    theirs = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


def test_slices_and_residuals() -> None:
    torch.manual_seed(0)
    whole = shake(ConvBNAct(8, 12))
    narrow = ConvBNAct(5, 7)
    with torch.no_grad():
        narrow[0].weight.copy_(whole[0].weight[:7, :5])
        for mine, wide in zip(
            (*narrow[1].parameters(), *narrow[1].buffers()),
            (*whole[1].parameters(), *whole[1].buffers()),
            strict=True,
        ):
            mine.copy_(wide[:7] if wide.dim() else wide)
    x, residual = torch.randn(2, 5, 6, 6), torch.randn(2, 4, 6, 6)
    expected = theirs_like(narrow)
    z = expected[1](expected[0](x.double()))
    z[:, :4] += residual
    before = whole[1].running_mean[7:].clone()
    torch.testing.assert_close(whole(x, 7, residual).double(), expected[2](z), rtol=1e-4, atol=1e-5)
    assert torch.equal(whole[1].running_mean[7:], before)
    torch.testing.assert_close(whole[1].running_mean[:7].double(), expected[1].running_mean)


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_running_statistics_follow_torchs(momentum: float | None) -> None:
    ours = ConvBNAct(3, 4, momentum=momentum)
    theirs = theirs_like(ours, torch.float32)
    for seed in range(3):
        x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        ours(x), theirs(x)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_frozen_norm_within_training() -> None:
    ours = shake(ConvBNAct(3, 4)).train()
    ours[1].eval()
    before = copy.deepcopy(ours.state_dict())
    x = torch.randn(2, 3, 5, 5)
    theirs = theirs_like(ours)
    theirs[1].eval()
    torch.testing.assert_close(ours(x).double(), theirs(x.double()), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(one, before[name]) for name, one in ours.state_dict().items())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ConvBNAct(3, 4, activation="gelu"), "activation must be one of .*hardswish.*, got 'gelu'"),
        (lambda: ConvBNAct(3, 4)(torch.zeros(1, 5, 4, 4)), "c_in must be at most 3: .* got 5"),
        (lambda: ConvBNAct(3, 4)(torch.zeros(1, 3, 4, 4), 5), "c_out must be at most the 4 features, got 5"),
        (lambda: SlicedLinear(3, 4)(torch.zeros(1, 5)), "x must have at most the 3 in_features, got 5"),
        (lambda: SlicedLinear(3, 4)(torch.zeros(1, 2), 5), "out_features must be from 1 to 4, got 5"),
    ],
)
def test_bad_input(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("bias", [True, False])
def test_sliced_linear(bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = SlicedLinear(6, 5, bias), nn.Linear(6, 5, bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 6)
    assert torch.equal(ours(x), theirs(x))
    expected = nn.functional.linear(x[..., :4], ours.weight[:3, :4], ours.bias[:3] if bias else None)
    result = ours(x[..., :4], 3)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    assert not ours.weight.grad[3:].any()
    assert not ours.weight.grad[:, 4:].any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hooked", [(), (0,), (1,), (0, 1)])
def test_values_lie_alike_with_and_without_hooks(hooked: tuple[int, ...], training: bool) -> None:
    """Code behind it may write through a view, which is a copy or not by the layout."""
    module = ConvBNAct(4, 8, activation="relu").train(training)
    for part in hooked:
        module[part].register_forward_hook(lambda *_: None)
    result = module(torch.randn(2, 4, 6, 5))
    assert result.is_contiguous(memory_format=torch.channels_last)
