"""A small supernet, and images to evaluate it on."""

import pytest
import torch

from lasfast import supernets
from lasfast.engine.native_backend import why_missing

MISSING = why_missing(torch.device("cpu"))


@pytest.fixture(
    params=[
        "torch",
        pytest.param("native", marks=pytest.mark.skipif(MISSING is not None, reason=MISSING or "")),
    ]
)
def backend(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def supernet() -> supernets.ResidualNet:
    torch.manual_seed(0)
    return supernets.ResidualNet((2, 2, 2), 7)


@pytest.fixture(scope="module")
def calibration() -> torch.Tensor:
    return torch.randn(23, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def validation() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(41, 3, 12, 12, generator=generator), torch.randint(0, 7, (41,), generator=generator)
