"""litdata: chunks that its `optimize` writes, read by its StreamingDataset."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import torch
from PIL import Image

from benchmarks.peers.work import BATCH, Batches, Task, documented, fast_batch, fast_sample, packed_split


def prepare(packed: Path, out: Path) -> None:
    """Write the images as its documents show: JPEG files opened by PIL, whose bytes it keeps."""
    _optimize(packed, out, True)


def prepare_bytes(packed: Path, out: Path) -> None:
    """Write the images as bytes, to be decoded by the caller."""
    _optimize(packed, out, False)


def default(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """Its own decoding (torchvision's decode_jpeg), torchvision's transforms on each sample."""
    dataset = _Documented(documented(task) if task == "augment" else None, str(source))
    yield from _epochs(dataset, workers, epochs)


def fast(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """The same reader with simplejpeg, crops in uint8 and one normalisation a batch."""
    for images, labels in _epochs(_Fast(partial(fast_sample, task=task), str(source)), workers, epochs):
        yield fast_batch(images, task), labels


class _Documented(litdata.StreamingDataset):
    def __init__(self, change: Any, source: str) -> None:
        super().__init__(source, shuffle=True)
        self._change = change

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
        sample = super().__getitem__(index)
        image = sample["image"]
        return self._change(image) if self._change else image, sample["label"]


class _Fast(_Documented):
    """Differs in what was stored: bytes."""


def _epochs(dataset: _Documented, workers: int, epochs: int) -> Batches:
    processes = 0 if workers == 1 else workers
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=processes, persistent_workers=processes > 0
    )
    for _ in range(epochs):
        yield from loader


def _optimize(packed: Path, out: Path, as_image: bool) -> None:
    count = len(packed_split(packed)[0].index)
    litdata.optimize(
        fn=partial(_sample, packed, as_image),
        inputs=list(range(count)),
        output_dir=str(out),
        chunk_bytes="16MB",
        num_workers=1,
        start_method="fork",
        verbose=False,
    )


def _sample(packed: Path, as_image: bool, sample: int) -> dict[str, Any]:
    split, fetch = packed_split(packed)
    content = fetch(sample)
    return {"image": Image.open(io.BytesIO(content)) if as_image else content, "label": int(split.labels[sample])}
