"""The raw limit: libjpeg-turbo (by simplejpeg) on bytes that are already in memory; no reading, no batches kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.work import BATCH, SIZE, Batches, Task, jpeg, packed_samples


def decode_only(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """Decode in shuffled order in ``workers`` threads (one: the calling one); each image is dropped at once."""
    contents, labels = zip(*packed_samples(source), strict=True)
    images = torch.empty(BATCH, SIZE, SIZE, 3, dtype=torch.uint8)  # only its shape is looked at
    known, random = torch.tensor(labels), np.random.default_rng(0)

    def decode(rows: np.ndarray) -> None:
        for row in rows.tolist():
            jpeg(contents[row])

    with ThreadPoolExecutor(workers) as pool:
        for _ in range(epochs):
            order = random.permutation(len(contents))
            for rows in np.array_split(order, range(BATCH, len(order), BATCH)):
                if workers == 1:
                    decode(rows)
                else:
                    list(pool.map(decode, np.array_split(rows, workers)))
                yield images[: len(rows)], known[rows]
