"""The drop-in modules against torch's, whole and sliced."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lasfast.nn import SlicedBatchNorm2d, SlicedConv2d


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "bias": False, "stride": 2},
        {"kernel_size": 5, "padding": "same"},
        {"kernel_size": (1, 3), "padding": "valid"},
        {"kernel_size": 3, "groups": 4},
    ],
)
def test_whole_convolution_is_torchs(arguments: dict) -> None:
    torch.manual_seed(0)
    theirs, ours = nn.Conv2d(8, 12, **arguments), SlicedConv2d(8, 12, **arguments)
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_sliced_convolution_is_torchs_with_the_slice(groups: int) -> None:
    torch.manual_seed(0)
    ours = SlicedConv2d(8, 12, 3, padding=1, groups=groups)
    x = torch.randn(2, 6, 5, 5)
    theirs = nn.Conv2d(6, 10, 3, padding=1, groups=groups)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight[:10, : 6 // groups])
        theirs.bias.copy_(ours.bias[:10])
    y, expected = ours(x, 10), theirs(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad[:10, : 6 // groups], theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad[:10], theirs.bias.grad)
    assert not ours.weight.grad[10:].any()
    assert not ours.weight.grad[:, 6 // groups :].any()
    assert not ours.bias.grad[10:].any()


def test_depthwise_convolution_narrows_with_its_input() -> None:
    torch.manual_seed(0)
    conv = SlicedConv2d(8, 8, 3, padding=1, groups=8)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(conv(x[:, :5]), conv(x)[:, :5])


def test_autocast_gives_the_lower_precision() -> None:
    conv = SlicedConv2d(8, 12, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(2, 6, 5, 5), 10).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dilation": 2}, r"dilation must be \(1, 1\), got \(2, 2\)"),
        ({"padding_mode": "circular", "padding": 1}, "padding_mode must be 'zeros', got 'circular'"),
        ({"stride": (1, 2)}, r"stride must be the same for both axes, got \(1, 2\)"),
        ({"padding": (0, 1)}, r"padding must be the same for both axes, got \(0, 1\)"),
        ({"kernel_size": 2, "padding": "same"}, r"kernel_size must be square and odd .*'same', got \(2, 2\)"),
    ],
)
def test_what_the_operator_lacks_is_refused_at_once(arguments: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        SlicedConv2d(4, 4, **{"kernel_size": 3, **arguments})


def test_bad_inputs_are_named() -> None:
    with pytest.raises(ValueError, match=r"c_in must be at most 8: .* got 9"):
        SlicedConv2d(8, 8, 3)(torch.zeros(1, 9, 5, 5))
    with pytest.raises(ValueError, match=r"x must have 4 dimensions .* got shape"):
        SlicedConv2d(8, 8, 3)(torch.zeros(8, 5, 5))
    with pytest.raises(ValueError, match="x must have at most 8 channels, the features, got 9"):
        SlicedBatchNorm2d(8)(torch.zeros(1, 9, 5, 5))
    with pytest.raises(ValueError, match=r"x must have 4 dimensions .* got shape"):
        SlicedBatchNorm2d(8)(torch.zeros(8, 5))


@pytest.mark.parametrize("channels", [8, 5])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
        {"eps": 0.1, "momentum": 0.5},
    ],
)
def test_batch_norm_is_torchs_with_the_first_features(channels: int, arguments: dict) -> None:
    torch.manual_seed(0)
    ours, theirs = SlicedBatchNorm2d(8, **arguments), nn.BatchNorm2d(channels, **arguments)
    whole = nn.BatchNorm2d(8, **arguments)
    assert list(ours.state_dict()) == list(whole.state_dict())
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(torch.randn(8))
            b.copy_(a[:channels])
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    for _ in range(3):
        x = torch.randn(4, channels, 3, 5) * 2 + 1
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        if a.dim() == 0:
            assert a == b == 3
            continue
        assert torch.equal(a[:channels], b)
        assert torch.equal(a[channels:], before[name][channels:])
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    ours(x)
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
