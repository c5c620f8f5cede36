"""The backend that an evaluator computes with: the one that was asked for, or the fastest that can."""

from __future__ import annotations

import logging
import random

from lasfast.data.normalization import Normalization
from lasfast.engine import Backend, NativeBackend, NotLowerableError, TorchBackend
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import why_missing
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import kernels
from lasfast.runtime.placement import device_of
from lasfast.supernets import Supernet

logger = logging.getLogger("lasfast")


def choose_backend(
    wanted: str,
    supernet: Supernet,
    image_shape: Shape,
    precision: str,
    memory_budget: int | None,
    normalization: Normalization | None,
) -> Backend:
    """Return the backend that is wanted; for "auto", the native one where it can run the supernet.

    Args:
        wanted: "auto", "native" or "torch".
        supernet: what the backend runs; its parameters' device says where.
        image_shape: (channels, height, width) of one image.
        precision: "fp32" or "bf16".
        memory_budget: bytes of activations to stay within, or None.
        normalization: of uint8 images; None for images that are floating point.

    Raises:
        ValueError: "native" is wanted and cannot run the supernet; the text says why.
    """
    torch_backend = TorchBackend(supernet, precision, normalization)
    if wanted == "torch":
        return torch_backend
    device = device_of(supernet)
    why = why_missing(device)
    if why is None and wanted == "auto" and not kernels.usable(device):
        return torch_backend  # the GPU failed its check, of which a warning has told
    why = why or _why_not_lowerable(supernet, image_shape)
    if why is None:
        return NativeBackend(supernet, precision, memory_budget, normalization)
    if wanted == "native":
        raise ValueError(f"backend 'native' cannot run this supernet: {why}; take 'torch' or 'auto'")
    logger.warning("lasfast evaluates with PyTorch's operators: %s", why)
    return torch_backend


def fall_back(wanted: str, supernet: Supernet, backend: Backend, error: NotLowerableError) -> TorchBackend:
    """Return what goes on for a native backend that has met an architecture that it cannot run.

    Raises:
        ValueError: "native" is wanted, not "auto".
    """
    if wanted == "native":
        raise ValueError(f"backend 'native' cannot run this supernet: {error}; take 'torch'") from error
    logger.warning("lasfast goes on with PyTorch's operators: %s", error)
    return TorchBackend(supernet, backend.precision, backend.target.normalization)


def _why_not_lowerable(supernet: Supernet, image_shape: Shape) -> str | None:
    """Say why the native backend cannot run some architectures, which should reach every kind of layer.

    None where it can run them all.
    """
    space, rng = supernet.space, random.Random(0)
    largest = space.largest()
    chosen = [largest] if largest is not None else [space.sample(rng) for _ in range(8)]
    tree = PrefixTree([supernet.path(architecture) for architecture in chosen])
    try:
        lower(tree, image_shape, calibration=False)
    except NotLowerableError as error:
        return str(error)
    except ValueError:
        pass  # the images are too small for some architectures: the error comes when one of them is asked for
    return None
