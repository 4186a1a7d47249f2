"""The raw limit: libjpeg-turbo (by simplejpeg) on bytes that are already in memory; no reading, no batches kept."""

from __future__ import annotations

from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.work import BATCH, SIZE, Batches, Task, jpeg, packed_samples


def decode_only(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """Decode in shuffled order in ``workers`` processes (one: the calling one); each image is dropped at once.

    Not in threads: of two, one waits for the other's Python again and again, and the limit would be Python's.
    """
    global _contents
    _contents, labels = zip(*packed_samples(source), strict=True)
    images = torch.empty(BATCH, SIZE, SIZE, 3, dtype=torch.uint8)  # only its shape is looked at
    known, random = torch.tensor(labels), np.random.default_rng(0)
    with ExitStack() as stack:
        run: Any = map if workers == 1 else stack.enter_context(get_context("fork").Pool(workers)).imap
        for _ in range(epochs):
            order = random.permutation(len(_contents))
            batches = np.array_split(order, range(BATCH, len(order), BATCH))
            for rows, _ in zip(batches, run(_decode, batches), strict=True):
                yield images[: len(rows)], known[rows]


_contents: tuple[bytes, ...] = ()  # inherited by the processes


def _decode(rows: np.ndarray) -> None:
    for row in rows.tolist():
        jpeg(_contents[row])
