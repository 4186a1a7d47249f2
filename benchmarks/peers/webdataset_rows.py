"""webdataset on the packed set's own shards: plain tar files that both read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import webdataset as wds

from benchmarks.peers.work import BATCH, Batches, Task, documented, fast_batch, fast_sample

SHUFFLE = 1000  # samples in the buffer, as its examples have it


def default(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """As its documents show first: PIL, torchvision's transforms on each sample."""
    samples = _samples(source).decode("pil").to_tuple("jpg", "cls").map_tuple(documented(task), int)
    yield from _epochs(samples.batched(BATCH), workers, epochs)


def fast(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """The same reader with simplejpeg, crops in uint8 and one normalisation a batch."""
    samples = _samples(source).to_tuple("jpg", "cls").map_tuple(partial(fast_sample, task=task), int)
    for images, labels in _epochs(samples.batched(BATCH), workers, epochs):
        yield fast_batch(images, task), labels


def _samples(source: Path) -> wds.WebDataset:
    shards = sorted(str(path) for path in source.glob("train-*.tar"))
    return wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(SHUFFLE)


def _epochs(samples: wds.WebDataset, workers: int, epochs: int) -> Batches:
    processes = 0 if workers == 1 else workers
    loader = wds.WebLoader(samples, batch_size=None, num_workers=processes, persistent_workers=processes > 0)
    for _ in range(epochs):
        for images, labels in loader:
            yield images, torch.as_tensor(labels)
