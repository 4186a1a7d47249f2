"""Augmentation of whole uint8 batches on the device, with random numbers that are given, not drawn.

Geometry only; normalisation follows in `normalise`. The resized crop is torchvision's antialiased bicubic one on uint8
images (tests hold them side by side). On a GPU it is two batched matrix products, without a loop over images; on a
CPU, where those take 5 times as long (2,700 against 15,000 images/s of 64 px on one core), torch's kernel an image.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

Augmentation = Literal["crop-flip", "crop", "resized-crop-flip", "flip", "none"]

ATTEMPTS = 10  # at a crop inside the image before the centre is taken, as torchvision has it
DRAWS = 3 + 2 * ATTEMPTS  # random numbers an image: flip, top, left, then (area, ratio) of each attempt
SCALE = (0.2, 1.0)  # share of the area that a resized crop keeps (METHOD: Tiny ImageNet)
RATIO = (3 / 4, 4 / 3)


def augment(images: torch.Tensor, draws: torch.Tensor, kind: Augmentation) -> torch.Tensor:
    """Augment a batch.

    Args:
        images: uint8 [B, S, S, 3].
        draws: float32 [B, DRAWS], uniform in [0, 1), on the images' device.
        kind: see `data.augment` in the config.

    Returns:
        uint8 [B, S, S, 3].
    """
    if kind == "none":
        return images
    flip = (draws[:, 0] < 0.5) & (kind != "crop")  # a mirrored digit or letter is another one
    if kind == "resized-crop-flip":
        crop = crop_by_kernel if images.device.type == "cpu" else crop_by_products
        return crop(images, draws, flip)
    padding = images.shape[1] // 8 if kind in ("crop-flip", "crop") else 0  # 4 pixels at 32 (He et al. 2016)
    return _shifted_crop(images, draws, flip, padding)


def normalise(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return float32 [B, 3, S, S] (channels-last in memory) from uint8 [B, S, S, 3] and statistics in [0, 1].

    These are of one set, [3], or of the set that each image is from, [B, 3].
    """
    # By rows of S·3 numbers: along channels alone, a CPU would work on 3 numbers at a time, 10 times as long.
    width = images.shape[2]
    shift, scale = mean * 255, 1 / (std * 255)
    if mean.dim() == 2:
        rows = images.reshape(len(images), -1, width * 3).float()
        rows.sub_(shift.repeat(1, width)[:, None]).mul_(scale.repeat(1, width)[:, None])
    else:
        rows = images.reshape(-1, width * 3).float().sub_(shift.repeat(width)).mul_(scale.repeat(width))
    return rows.view(images.shape).permute(0, 3, 1, 2)


def _shifted_crop(images: torch.Tensor, draws: torch.Tensor, flip: torch.Tensor, padding: int) -> torch.Tensor:
    """Pad with black, cut out the first size at a random place, and mirror where ``flip``; uint8 stays uint8."""
    size = images.shape[1]
    span = torch.arange(size, device=images.device)
    top, left = ((draws[:, 1:3] * (2 * padding + 1)).long()).unbind(1)
    columns = torch.where(flip[:, None], span.flip(0), span)
    batch = torch.arange(len(images), device=images.device)
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    rows, columns = top[:, None] + span, left[:, None] + columns
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def crop_by_kernel(images: torch.Tensor, draws: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Crop a random rectangle, scale it back to [S, S] and mirror it where ``flip``; uint8 [B, S, S, 3] in and out."""
    size = images.shape[1]
    boxes = zip(*(column.tolist() for column in (*crop_boxes(draws, size), flip)), strict=True)
    single = torch.split(images.permute(0, 3, 1, 2), 1)  # views, channels last, for which torch has a vectorised kernel
    scaled = []
    for image, (top, left, height, width, mirrored) in zip(single, boxes, strict=True):
        box = image[:, :, top : top + height, left : left + width]
        square = F.interpolate(box, (size, size), mode="bicubic", antialias=True)
        scaled.append(square.flip(3) if mirrored else square)
    return torch.cat(scaled).permute(0, 2, 3, 1)


def crop_by_products(images: torch.Tensor, draws: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Do what `crop_by_kernel` does, as two products: the same to two grey levels, as the kernel rounds its weights."""
    size = images.shape[1]
    top, left, height, width = crop_boxes(draws, size)
    columns, rows = resize_weights(left, width, size), resize_weights(top, height, size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    wide = _grey_levels(torch.einsum("bxw,bhwc->bhxc", columns, images.float()))
    return _grey_levels(torch.einsum("byh,bhxc->byxc", rows, wide)).byte()


def _grey_levels(values: torch.Tensor) -> torch.Tensor:
    """Round as the kernel for uint8 images does after each of its two passes."""
    return values.round().clamp(0, 255)


def crop_boxes(draws: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return integer (top, left, height, width), each int64 [B], of RandomResizedCrop's rectangles in a square."""
    area, ratio = draws[:, 3:].reshape(-1, ATTEMPTS, 2).unbind(2)
    area = size * size * (SCALE[0] + area * (SCALE[1] - SCALE[0]))
    ratio = torch.exp(math.log(RATIO[0]) + ratio * (math.log(RATIO[1]) - math.log(RATIO[0])))
    widths, heights = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
    fits = (widths > 0) & (widths <= size) & (heights > 0) & (heights <= size)
    # The first attempt that fits; where none does, the whole image, which is torchvision's choice for a square.
    first = torch.argmax(fits.int(), dim=1, keepdim=True)
    found = fits.any(1)
    height = torch.where(found, heights.gather(1, first)[:, 0], size).long()
    width = torch.where(found, widths.gather(1, first)[:, 0], size).long()
    top = (draws[:, 1] * (size - height + 1)).long()
    left = (draws[:, 2] * (size - width + 1)).long()
    return top, left, height, width


def resize_weights(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """Return the weights of an antialiased bicubic resize of ``[start, start + length)`` to ``size`` pixels.

    Returns:
        float32 [B, size, size]: each output pixel (dim 1) as a weighted sum of the input's pixels (dim 2).
    """
    scale = (length / size)[:, None, None]
    filter_scale = scale.clamp(min=1.0)  # wider than a pixel when shrinking: that is the antialiasing
    out = torch.arange(size, device=start.device, dtype=torch.float32)[None, :, None]
    source = torch.arange(size, device=start.device, dtype=torch.float32)[None, None, :]
    centre = (out + 0.5) * scale
    inside = source - start[:, None, None]
    weights = _cubic((inside + 0.5 - centre) / filter_scale)
    weights = torch.where((inside >= 0) & (inside < length[:, None, None]), weights, 0.0)
    return weights / weights.sum(2, keepdim=True)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic kernel with a = -0.5, the one of Pillow and of torch's antialiased resize."""
    x, a = x.abs(), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
