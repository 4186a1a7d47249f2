"""ffcv: its own file, whose JPEGs it encodes itself or whose pixels are raw; crops resized by area, not bicubic."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter

from benchmarks.peers.work import BATCH, MEAN, SCALE, SIZE, STD, Batches, Task, jpeg, packed_split


def prepare_jpg(packed: Path, out: Path) -> None:
    """Write its JPEGs, at its default quality of 90."""
    _write(packed, out, "jpg")


def prepare_raw(packed: Path, out: Path) -> None:
    """Write raw pixels."""
    _write(packed, out, "raw")


def batches(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """Its loader with the whole file in the page cache, in the order option that shuffles fully."""
    decoder = SimpleRGBImageDecoder()
    steps = [ToTensor()]
    if task == "augment":
        decoder = RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=SCALE)
        statistics = [np.array(numbers) * 255 for numbers in (MEAN, STD)]
        normalise = NormalizeImage(*statistics, np.float32)
        steps = [RandomHorizontalFlip(), normalise, ToTensor(), ToTorchImage(channels_last=False)]
    loader = Loader(
        str(source / "set.beton"),
        batch_size=BATCH,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=False,
        pipelines={"image": [decoder, *steps], "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    for _ in range(epochs):
        yield from loader


class _Samples:
    def __init__(self, packed: Path) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(packed_split(self._packed)[0].index)

    def __getitem__(self, sample: int) -> tuple[np.ndarray, int]:
        split, fetch = packed_split(self._packed)
        return jpeg(fetch(sample)), int(split.labels[sample])


def _write(packed: Path, out: Path, mode: str) -> None:
    field = partial(RGBImageField, write_mode=mode)
    writer = DatasetWriter(str(out / "set.beton"), {"image": field(), "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(_Samples(packed))
