"""mosaicml-streaming: MDS shards, read by its StreamingDataset from a local folder."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

from benchmarks.peers.work import BATCH, Batches, Task, documented, fast_batch, fast_sample, packed_samples


def prepare(packed: Path, out: Path) -> None:
    """Write JPEG columns, as its documents show; it keeps the bytes of JPEG files."""
    with MDSWriter(out=str(out), columns={"image": "jpeg", "label": "int"}) as writer:
        for content, label in packed_samples(packed):
            writer.write({"image": Image.open(io.BytesIO(content)), "label": label})


def prepare_bytes(packed: Path, out: Path) -> None:
    """Write the images as bytes, to be decoded by the caller."""
    with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}) as writer:
        for content, label in packed_samples(packed):
            writer.write({"image": content, "label": label})


def default(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """Its own decoding (PIL), torchvision's transforms on each sample; some images are grayscale."""
    change = documented(task)
    yield from _epochs(_Samples(source, lambda image: change(image.convert("RGB"))), workers, epochs)


def fast(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """The same reader with simplejpeg, crops in uint8 and one normalisation a batch."""
    for images, labels in _epochs(_Samples(source, partial(fast_sample, task=task)), workers, epochs):
        yield fast_batch(images, task), labels


class _Samples(StreamingDataset):
    def __init__(self, source: Path, change: Any) -> None:
        clean_stale_shared_memory()  # of a run that was killed; it refuses to start otherwise
        super().__init__(local=str(source), shuffle=True, batch_size=BATCH)
        self._change = change

    def __getitem__(self, at: Any) -> tuple[torch.Tensor, int]:
        sample = super().__getitem__(at)
        return self._change(sample["image"]), sample["label"]


def _epochs(dataset: _Samples, workers: int, epochs: int) -> Batches:
    processes = 0 if workers == 1 else workers
    loader = DataLoader(dataset, BATCH, num_workers=processes, persistent_workers=processes > 0)
    for _ in range(epochs):
        yield from loader
