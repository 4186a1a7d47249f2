"""The work that all loaders do: batches of 256, the sample's decoding, the augmentation and its normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torchvision.transforms import v2

from mixdist.data.fetch import Fetcher
from mixdist.data.index import Split
from mixdist.data.open_set import open_set

Task = Literal["decode", "augment", "cached"]
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]

BATCH = 256
SIZE = 64
SCALE = (0.2, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_BICUBIC = v2.InterpolationMode.BICUBIC
GEOMETRY = v2.Compose(
    [v2.RandomResizedCrop(SIZE, SCALE, interpolation=_BICUBIC, antialias=True), v2.RandomHorizontalFlip()]
)


def documented(task: Task) -> Callable[..., torch.Tensor]:
    """Return what a project's first example does with a PIL image: every step on every sample by itself."""
    if task == "decode":
        return v2.functional.pil_to_tensor
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose([*GEOMETRY.transforms, *to_float])


def jpeg(content: bytes) -> npt.NDArray[np.uint8]:
    """Decode with simplejpeg: uint8 [height, width, 3]."""
    return simplejpeg.decode_jpeg(content, colorspace="RGB")


def fast_sample(content: bytes, task: Task) -> torch.Tensor:
    """Decode with simplejpeg, and crop and flip in uint8: uint8 [3, SIZE, SIZE] for `augment`, else [SIZE, SIZE, 3]."""
    image = torch.from_numpy(jpeg(content))
    return GEOMETRY(image.permute(2, 0, 1)) if task == "augment" else image


def fast_batch(images: torch.Tensor, task: Task) -> torch.Tensor:
    """Normalise a batch at once for `augment`: float32 [B, 3, SIZE, SIZE]; uint8 stays as it is for `decode`."""
    return v2.functional.normalize(images.float().div_(255), MEAN, STD, inplace=True) if task == "augment" else images


@cache
def packed_split(packed: Path) -> tuple[Split, Fetcher]:
    """Return the samples of a packed set and access to their bytes."""
    split = open_set(packed).split("train")
    return split, Fetcher(split)


def packed_samples(packed: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the encoded image and the label of every sample of a packed set, in its order."""
    split, fetch = packed_split(packed)
    for sample, label in enumerate(split.labels.tolist()):
        yield fetch(sample), label
