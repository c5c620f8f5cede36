"""Augmentation of whole batches at once.

Raw images are zero-padded, cropped, flipped, and then normalized (by ``lasfast.data.normalization``), in the
order of the paper (NIR, Experiments on CIFAR-100, Training Details). Every random number is drawn on the CPU,
so that a batch is cropped and flipped alike wherever its images are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor

SCALE = (0.08, 1.0)  # area of a random resized crop, as a part of the image (torchvision's default)
RATIO = (3 / 4, 4 / 3)  # its width / height
ATTEMPTS = 10


def crop_windows(images: Tensor, pad: int) -> Tensor:
    """Return every crop of the zero-padded images as one strided view, [N, 2*pad+1, 2*pad+1, C, H, W].

    ``windows[n, top, left]`` is the [C, H, W] crop of padded image n at (top, left). The padded images are
    the only copy made, so gathering a batch of random crops is a single index op.
    """
    height, width = images.shape[-2:]
    padded = pad_tensor(images, (pad, pad, pad, pad)) if pad else images
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)


def draw_flips(count: int, generator: torch.Generator) -> Tensor:
    """Draw fair coins, bool [count]."""
    return torch.randint(0, 2, (count,), generator=generator).bool()


def draw_offsets(count: int, pad: int, generator: torch.Generator) -> Tensor:
    """Draw (top, left) of crops, uniform over 0 .. 2*pad, int64 [2, count]."""
    return torch.randint(0, 2 * pad + 1, (2, count), generator=generator)


def flip_some(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror the images [N, C, H, W] whose flag in ``flips`` (bool [N]) is set, left to right."""
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(-1), images)


def draw_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw boxes (top, left, height, width) of random resized crops, int64 [count, 4].

    The distribution is that of torchvision's ``RandomResizedCrop``: area uniform in ``SCALE``, aspect ratio
    log-uniform in ``RATIO``; the first of ten attempts that fits, else the largest central box.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    draws = torch.rand((2, count, ATTEMPTS), generator=generator, dtype=torch.float64)
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[0])
    ratio = torch.exp(low + (high - low) * draws[1])
    widths = torch.round(torch.sqrt(area * ratio)).long()
    heights = torch.round(torch.sqrt(area / ratio)).long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    place = torch.rand((2, count), generator=generator, dtype=torch.float64)
    box_height = heights.gather(1, first)[:, 0]
    box_width = widths.gather(1, first)[:, 0]
    top = (place[0] * (height - box_height + 1)).long()
    left = (place[1] * (width - box_width + 1)).long()
    boxes = torch.stack([top, left, box_height, box_width], dim=1)
    whole = torch.tensor(central_box(height, width))
    return torch.where(fits.any(dim=1, keepdim=True), boxes, whole)


def central_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest central box (top, left, height, width) whose width / height lies in ``RATIO``."""
    box_height, box_width = height, width
    if width / height < RATIO[0]:
        box_height = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        box_width = round(height * RATIO[1])
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resize_boxes(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Cut each image's box out and enlarge it bilinearly to the whole image, mirrored where flagged.

    Args:
        images: [N, C, H, W] uint8 or float.
        boxes: (top, left, height, width), int64 [N, 4].
        flips: bool [N].

    Returns:
        float32 [N, C, H, W], in raw units: what cropping and resizing one by one gives. A box is never larger
        than the image, so nothing has to be smoothed first.
    """
    height, width = images.shape[-2:]
    rows = _interpolation(boxes[:, 0], boxes[:, 2], height, torch.zeros_like(flips))
    columns = _interpolation(boxes[:, 1], boxes[:, 3], width, flips)
    with torch.autocast(images.device.type, enabled=False):
        return rows.unsqueeze(1) @ images.to(torch.float32) @ columns.unsqueeze(1).transpose(-1, -2)


def _interpolation(start: Tensor, length: Tensor, size: int, mirrored: Tensor) -> Tensor:
    """Return matrices [N, size, size] that stretch pixels start .. start+length-1 over a whole line."""
    target = torch.arange(size, device=start.device, dtype=torch.float32)
    target = torch.where(mirrored.unsqueeze(1), size - 1 - target, target)
    within = (target + 0.5) * (length.unsqueeze(1) / size) - 0.5
    within = within.clamp(min=torch.zeros_like(within), max=(length - 1).unsqueeze(1).to(within.dtype))
    source = within + start.unsqueeze(1)
    pixels = torch.arange(size, device=start.device, dtype=torch.float32)
    return torch.relu(1 - (source.unsqueeze(2) - pixels).abs())
