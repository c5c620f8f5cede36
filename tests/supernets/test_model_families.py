"""Networks as timm and torchvision make them become supernets; sorting their channels changes no output."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from benchmarks.record_families import families, make
from lasfast.supernets import from_model

pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))


def with_channels_that_differ(model: nn.Module) -> nn.Module:
    """Give channels scales, shifts and statistics of their own: new networks have the same ones for all.

    A channel that is taken for another would go unseen otherwise.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.1 * torch.randn(buffer.shape, generator=generator)
            elif name.endswith("running_var"):
                buffer *= 0.5 + torch.rand(buffer.shape, generator=generator)
    return model


NOT_READ = {"timm:dm_nfnet_f0": "code that lasfast cannot read has them"}
"""The families in which nothing may vary, and why: NFNets standardize weights before they use them."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), families().items())
def test_families(name: str, size: int, one_thread: None) -> None:
    model = with_channels_that_differ(make(name)).eval()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    if name in NOT_READ:
        with pytest.raises(ValueError, match=NOT_READ[name]):
            from_model(model, (3, size, size))
        return
    supernet = from_model(model, (3, size, size))
    narrower = supernet.space.sample(random.Random(0))
    weights = model.state_dict()
    sorted_weights = supernet.network.state_dict()
    moved = any(not torch.equal(value, weights[name]) for name, value in sorted_weights.items())
    assert moved == ("widths:" in str(supernet))  # in ConvNeXts, depth alone may vary
    with torch.no_grad():
        theirs = model(x)
        truth = model.double()(x.double())
        allowed = 2 * (theirs - truth).norm() + 1e-4 * truth.norm()
        assert (supernet(x, supernet.full) - truth).norm() <= allowed
        logits = supernet(x, narrower)
        assert (supernet.extract(narrower)(x) - logits).norm() <= 1e-3 * logits.norm()
