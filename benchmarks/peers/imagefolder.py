"""torchvision's ImageFolder and DataLoader: one file a sample."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.peers.work import BATCH, Batches, Task, documented, fast_batch, fast_sample


def default(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """As its documents show first: PIL, torchvision's transforms on each sample."""
    yield from _epochs(ImageFolder(source, documented(task)), workers, epochs)


def fast(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """The same with simplejpeg, crops in uint8 and one normalisation a batch."""
    dataset = ImageFolder(source, partial(fast_sample, task=task), loader=_read)
    for images, labels in _epochs(dataset, workers, epochs):
        yield fast_batch(images, task), labels


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 (a Path object a sample would slow this row down)
        return file.read()


def _epochs(dataset: ImageFolder, workers: int, epochs: int) -> Batches:
    processes = 0 if workers == 1 else workers
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=processes, persistent_workers=processes > 0)
    for _ in range(epochs):
        yield from loader
