"""Quantizers by hand, and PACT's kernel of few passes against PyTorch's own gradients."""

import pytest
import torch
from torch import nn

from lasfast.execution import accelerate
from lasfast.nn import PACT
from lasfast.ops import dorefa, pact
from lasfast.ops.quantize import LEAST_ALPHA, pact_reference


def test_one_bit_weights_are_signs_of_the_mean_size() -> None:
    weight = torch.tensor([[0.5, -1.0], [0.0, -2.5]], requires_grad=True)
    quantized = dorefa(weight, 1)
    assert quantized.tolist() == [[1.0, -1.0], [1.0, -1.0]]  # (0.5 + 1 + 0 + 2.5) / 4
    quantized.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert weight.grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_two_bit_weights_by_hand() -> None:
    """tanh: 0.5, -0.8, 0.1, over twice the greatest, plus a half: 0.8125, 0, 0.5625; in thirds 2, 0, 2."""
    weight = torch.tensor([0.5, -0.8, 0.1], dtype=torch.float64).atanh()
    torch.testing.assert_close(
        dorefa(weight, 2), torch.tensor([1 / 3, -1, 1 / 3], dtype=torch.float64), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_take_even_levels_with_the_gradient_of_what_was_rounded(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    quantized = dorefa(weight, bits)
    steps = (quantized.detach() + 1) * (2**bits - 1) / 2
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-12)
    assert quantized.detach().abs().max() == 1
    squashed = weight.tanh() / weight.tanh().abs().max()
    assert (quantized - squashed).abs().max() <= 1 / (2**bits - 1) + 1e-12
    direction = torch.randn_like(quantized)
    gradients = [torch.autograd.grad(y, weight, direction)[0] for y in (quantized, squashed)]
    torch.testing.assert_close(*gradients)


def test_a_weight_of_zeros_is_finite() -> None:
    for bits in (1, 2, 4):
        assert dorefa(torch.zeros(3, 2), bits).isfinite().all()


def test_values_by_hand() -> None:
    """Alpha 3 and two bits: the levels are 0, 1, 2 and 3; halves go to the even one, as torch rounds."""
    x = torch.tensor([-4.0, 0.0, 0.4, 0.5, 1.5, 2.2, 2.9, 3.0, 7.0], requires_grad=True)
    alpha = torch.tensor(3.0, requires_grad=True)
    quantized = pact(x, alpha, 2)
    assert quantized.tolist() == [0, 0, 0, 0, 2, 2, 3, 3, 3]
    quantized.backward(torch.arange(1.0, 10.0))
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 7, 0, 0]
    assert alpha.grad == 8 + 9


@pytest.mark.parametrize("alpha", [2.7, 0.3, LEAST_ALPHA / 2, -1.0])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_few_passes_give_the_bits_of_the_reference(dtype: torch.dtype, bits: int, alpha: float) -> None:
    torch.manual_seed(0)
    values = torch.cat([torch.randn(999) * 3, torch.tensor([0.0, alpha, torch.inf, -torch.inf])]).to(dtype)
    direction = torch.randn(len(values)).to(dtype)
    seen = []
    for function in (pact, pact_reference):
        x = values.clone().requires_grad_()
        clip = torch.tensor(alpha, dtype=max(dtype, torch.float32, key=lambda one: one.itemsize))
        clip.requires_grad_()
        y = function(x, clip, bits)
        y.backward(direction)
        seen.append((y.detach(), x.grad, clip.grad))
    (y, of_x, of_alpha), (expected, of_x_too, of_alpha_too) = seen
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    assert torch.equal(of_x, of_x_too)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5  # the reference sums in the values' precision
    torch.testing.assert_close(of_alpha, of_alpha_too, rtol=tolerance, atol=tolerance * 10)


def test_no_number_stays_none() -> None:
    x = torch.tensor([torch.nan, 1.0])
    assert pact(x, torch.tensor(2.0), 2).isnan().tolist() == [True, False]


def test_memory_layout_and_slices() -> None:
    x = torch.randn(2, 9, 5, 3).to(memory_format=torch.channels_last)
    y = pact(x, torch.tensor(2.0), 3)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pact(x[:, 2:7, ::2], torch.tensor(2.0), 3), y[:, 2:7, ::2])
    for bits in (1, 3):  # of a slice, what is in use decides about the scale
        torch.testing.assert_close(dorefa(x[:1, :4], bits), dorefa(x[:1, :4].contiguous(), bits))


@pytest.mark.parametrize(
    "function", [dorefa, lambda x, bits: pact(x, torch.tensor(1.0), bits), lambda _, bits: PACT(bits)]
)
def test_impossible_bits_are_refused(function) -> None:
    for bits in (0, 9):
        with pytest.raises(ValueError, match="bits must be"):
            function(torch.ones(2), bits)
    with pytest.raises(TypeError, match=r"bits must be an int, got 2\.0"):
        function(torch.ones(2), 2.0)


def test_an_accelerated_network_has_the_same_gradients() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), PACT(2, alpha=1.0), nn.Flatten()
    )
    images = torch.randn(5, 3, 6, 6)
    seen = []
    for one in (network, accelerate(network)):
        network.zero_grad()
        one(images).square().sum().backward()
        seen.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(gradient.any() for gradient in seen[1])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_module_learns_where_to_clip() -> None:
    """Large values pull alpha up, and only they do; weight decay pulls it down."""
    module = PACT(4, alpha=1.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.1)
    for target, moves_up in ((5.0, True), (0.0, False)):
        before = float(module.alpha.detach())
        (module(torch.tensor([5.0])) - target).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert (float(module.alpha.detach()) > before) == moves_up
