"""Hugging Face datasets: an Arrow table on disk behind torch's DataLoader."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value, load_from_disk
from torch.utils.data import DataLoader

from benchmarks.peers.work import BATCH, Batches, Task, documented, fast_batch, fast_sample, packed_samples

Rows = dict[str, list[Any]]


def prepare(packed: Path, out: Path) -> None:
    """Write its Image feature, which keeps the bytes of files."""
    contents, labels = zip(*packed_samples(packed), strict=True)
    images = [{"bytes": content, "path": None} for content in contents]
    features = Features({"image": Image(), "label": Value("int64")})
    Dataset.from_dict({"image": images, "label": list(labels)}, features=features).save_to_disk(out)


def default(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """Its own decoding (PIL), torchvision's transforms on each sample; some images are grayscale."""
    yield from _epochs(load_from_disk(source).with_transform(partial(_documented, task=task)), workers, epochs)


def fast(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """The same reader with simplejpeg, crops in uint8 and one normalisation a batch."""
    encoded = load_from_disk(source).cast_column("image", Image(decode=False))
    for images, labels in _epochs(encoded.with_transform(partial(_fast, task=task)), workers, epochs):
        yield fast_batch(images, task), labels


def _documented(rows: Rows, task: Task) -> Rows:
    change = documented(task)
    return rows | {"image": [change(image.convert("RGB")) for image in rows["image"]]}


def _fast(rows: Rows, task: Task) -> Rows:
    return rows | {"image": [fast_sample(image["bytes"], task) for image in rows["image"]]}


def _epochs(dataset: Dataset, workers: int, epochs: int) -> Batches:
    processes = 0 if workers == 1 else workers
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=processes, persistent_workers=processes > 0)
    for _ in range(epochs):
        for batch in loader:
            yield batch["image"], batch["label"]
