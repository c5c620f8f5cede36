"""`depthwise_conv2d`: as torch's convolution, dilated or not, forward and backward."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from lasfast.ops import sliced_conv2d
from lasfast.ops.depthwise import depthwise_conv2d

TAKEN = [  # kernel, stride, padding, dilation: gradients by lasfast's kernels
    (3, 1, 1, 1),
    (3, 2, 1, 1),
    (3, 1, 2, 2),
    (3, 2, 2, 2),
    (5, 1, 4, 2),
    (5, 2, 4, 2),
    (5, 3, 6, 3),
    (7, 1, 9, 3),
    (1, 1, 0, 2),
]
LEFT = [  # PyTorch's
    (3, 3, 2, 2),
    (3, 2, 4, 4),
    (3, 1, 1, 2),
    (2, 1, 1, 2),
    (3, 1, 3, 2),
]
SIZES = [(3, 16, 8, 8), (2, 20, 9, 7), (1, 3, 11, 5), (2, 8, 4, 6)]


def gradients(output: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    factors = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).to(output.dtype)
    return torch.autograd.grad(output, tensors, factors)


def assert_as_near_as_torchs(x: Tensor, weight: Tensor, numbers: tuple[int, ...]) -> None:
    """Output and gradients are as near to those in float64 as PyTorch's, by the first filters."""
    channels = x.shape[1]

    def torchs(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight[:channels].to(x.dtype), None, *numbers, channels)

    found = []
    for run, dtype in (
        (lambda x, weight: depthwise_conv2d(x, weight, *numbers), x.dtype),
        (torchs, x.dtype),
        (torchs, torch.float64),
    ):
        input = x.to(dtype, copy=True).requires_grad_()
        kernel = weight.to(torch.promote_types(dtype, weight.dtype), copy=True).requires_grad_()
        output = run(input, kernel)
        assert output.dtype == dtype
        found.append([one.double() for one in (output, *gradients(output, input, kernel))])
    for ours, theirs, truth in zip(*found, strict=True):
        assert ours.shape == truth.shape
        assert (ours - truth).norm() <= 2 * (theirs - truth).norm() + 1e-6 * truth.norm()


@pytest.mark.parametrize("numbers", [*TAKEN, *LEFT], ids=str)
def test_it_is_torchs_convolution(numbers: tuple[int, ...], one_thread: None) -> None:
    kernel, *rest = numbers
    for seed, (size, dtype) in enumerate(itertools.product(SIZES, (torch.float32, torch.bfloat16))):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(size, generator=generator).to(dtype)
        weight = torch.randn(size[1] + seed % 3, 1, kernel, kernel, generator=generator)
        assert_as_near_as_torchs(x, weight, tuple(rest))


@pytest.mark.parametrize("numbers", [(1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 1, 2)], ids=str)
def test_its_output_is_channels_last_and_the_same_without_gradients(
    numbers: tuple[int, ...], one_thread: None
) -> None:
    x, weight = torch.randn(2, 16, 9, 7), torch.randn(16, 1, 3, 3, requires_grad=True)
    output = depthwise_conv2d(x, weight, *numbers)
    assert output.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(depthwise_conv2d(x, weight, *numbers), output)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_gradient_of_one_alone_is_that_of_both(stride: int, dilation: int, one_thread: None) -> None:
    numbers = stride, dilation, dilation
    x, weight = torch.randn(2, 16, 8, 8), torch.randn(16, 1, 3, 3)
    both = gradients(
        depthwise_conv2d(a := x.clone().requires_grad_(), b := weight.clone().requires_grad_(), *numbers),
        a,
        b,
    )
    [of_x] = gradients(depthwise_conv2d(c := x.clone().requires_grad_(), weight, *numbers), c)
    [of_weight] = gradients(depthwise_conv2d(x, d := weight.clone().requires_grad_(), *numbers), d)
    torch.testing.assert_close((of_x, of_weight), both)


def test_under_autocast_the_input_is_cast(one_thread: None) -> None:
    x, weight = torch.randn(2, 16, 8, 8, requires_grad=True), torch.randn(16, 1, 3, 3, requires_grad=True)
    for numbers in ((1, 1, 1), (1, 2, 2), (2, 2, 2)):
        with torch.autocast("cpu", torch.bfloat16):
            output = depthwise_conv2d(x, weight, *numbers)
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(
            output.float(), F.conv2d(x, weight, None, *numbers, 16), rtol=0.05, atol=0.05
        )
        assert [one.dtype for one in gradients(output, x, weight)] == [torch.float32] * 2


def test_it_compiles(one_thread: None) -> None:
    x = torch.randn(2, 16, 8, 8)
    for numbers in ((1, 1, 1), (1, 2, 2)):
        ours, theirs = (
            torch.randn(16, 1, 3, 3, generator=torch.Generator().manual_seed(0)) for _ in range(2)
        )
        run = torch.compile(depthwise_conv2d, backend="aot_eager", fullgraph=True)
        found = run(x, ours.requires_grad_(), *numbers)
        expected = F.conv2d(x, theirs.requires_grad_(), None, *numbers, 16)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients(found, ours), gradients(expected, theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("dilation", [1, 2])
def test_other_derivatives_are_refused(dilation: int) -> None:
    x, weight = torch.randn(2, 16, 8, 8), torch.randn(16, 1, 3, 3, requires_grad=True)
    output = depthwise_conv2d(x, weight, 1, dilation, dilation)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.autograd.grad(output.sum(), weight, create_graph=True)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no derivatives in forward mode"):
        depthwise_conv2d(forward_ad.make_dual(x, x), weight, 1, dilation, dilation)


def test_arguments_are_checked_as_those_of_the_sliced_convolution() -> None:
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(3, 1, 3, 3)
    for run in (depthwise_conv2d, lambda x, weight: sliced_conv2d(x, weight, 4, 4, groups=4)):
        with pytest.raises(ValueError, match=r"weight"):
            run(x, weight)
        with pytest.raises(TypeError, match=r"weight must be a tensor"):
            run(x, None)
        with pytest.raises(ValueError, match=r"input must have 4 dimensions"):
            run(x[0], weight)
