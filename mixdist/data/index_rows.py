"""Hold an index against its manifest before it is used: every row inside its shard, every label a class."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixdist.data.index import UNLABELLED, Split, index_dtype
from mixdist.errors import DataError

ROWS = 1 << 16  # that are checked at a time, so that a large index takes no memory


def check_rows(split: Split, file: str, classes: int) -> None:
    """Check every row, reading the file in blocks: a walk through the map would make all of it resident.

    Args:
        split: whose index is checked.
        file: how a message names the index.
        classes: how many the set has.

    Raises:
        DataError: a row that points outside its shard, or a label that is no class.
    """
    sizes = np.array([shard.bytes for shard in split.shards], dtype=np.uint64)
    counts = np.zeros(len(sizes), np.int64)
    for start, rows in _blocks(split.index):
        shard = rows["shard"]
        if shard.max() >= len(sizes) or not _within(rows, sizes[shard]):
            raise DataError(f"{file} points outside the shards that the manifest names; pack the set again")
        counts += np.bincount(shard, minlength=len(sizes))
        _check_labels(split, rows["label"], start, classes)
    if counts.tolist() != [shard.samples for shard in split.shards]:
        raise DataError(f"{file} points outside the shards that the manifest names; pack the set again")


def hash_rows(index: npt.NDArray[np.void]) -> str:
    """Return the SHA-256 of a mapped index's rows, in hex: of ``index.tobytes()``, read from the file in blocks."""
    digest = sha256()
    for _, rows in _blocks(index):
        digest.update(rows.data)
    return digest.hexdigest()


def _blocks(index: npt.NDArray[np.void]) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
    """Yield (first row, rows) of a mapped index, read from its file."""
    assert isinstance(index, np.memmap)
    dtype = index_dtype(index.dtype["key"].itemsize)
    with Path(str(index.filename)).open("rb") as file:
        file.seek(index.offset)
        for start in range(0, len(index), ROWS):
            content = file.read(min(ROWS, len(index) - start) * index.itemsize)
            yield start, np.frombuffer(content, dtype)


def _within(rows: npt.NDArray[np.void], sizes: npt.NDArray[np.uint64]) -> bool:
    offset, size = rows["offset"], rows["size"]
    return bool(((offset <= sizes) & (size <= sizes - offset)).all())  # a sum could pass 2^64 and come out small


def _check_labels(split: Split, labels: npt.NDArray[np.int32], start: int, classes: int) -> None:
    wrong = np.flatnonzero((labels < UNLABELLED) | (labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"label {labels[first]} of {split.describe(start + first)} is out of range: the set has {classes} "
            f"classes, so labels are 0 to {classes - 1} (or no label)"
        )
