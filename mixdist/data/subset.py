"""Which samples belong to a share of a set: keyed hashes, so that a share depends on the seed alone.

The hash is our own arithmetic (splitmix64), not NumPy's generators, whose streams may change between versions: the
labelled images of a published run stay the same images. Shares are nested: the rows at a fraction are among the
rows at every larger one.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def keyed_hash(rows: npt.ArrayLike, seed: int, tag: str) -> npt.NDArray[np.uint64]:
    """Hash each row number under a seed and a tag that names the purpose; uint64 of the shape of ``rows``."""
    key = _splitmix64(np.array([seed], dtype=np.uint64)) ^ np.uint64(zlib.crc32(tag.encode()))
    return _splitmix64(_splitmix64(key) ^ np.asarray(rows, dtype=np.uint64))


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the first output of splitmix64 at state ``x`` (Steele et al., OOPSLA 2014)."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def shuffled(count: int, seed: int, tag: str) -> Rows:
    """Return the rows 0 to ``count - 1`` in an order that the seed and the tag decide."""
    return np.argsort(keyed_hash(np.arange(count), seed, tag), kind="stable").astype(np.int64)


def stratified(labels: npt.ArrayLike, fraction: float, seed: int, tag: str) -> Rows:
    """Draw the same share of every class: ``round(fraction * n)`` of the n rows of each, ascending row numbers.

    Args:
        labels: class numbers, shape [rows]; -1, an unlabelled row, is a class of its own.
        fraction: share of each class, 0 to 1.
        seed: at least 0.
        tag: names the purpose; another tag draws other rows.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction} is not in 0 to 1")
    labels = np.asarray(labels)
    order = np.lexsort((keyed_hash(np.arange(len(labels)), seed, tag), labels))  # by class, then by hash, then by row
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    taken = np.rint(fraction * counts)  # as round(): a half goes to the even number
    return np.sort(order[rank < np.repeat(taken, counts)]).astype(np.int64)


def random_rows(count: int, fraction: float, seed: int, tag: str) -> Rows:
    """Draw ``round(fraction * count)`` of the rows 0 to ``count - 1`` without regard to class, ascending."""
    return stratified(np.zeros(count, dtype=np.int64), fraction, seed, tag)


def smallest_fraction(count: int) -> str:
    """Return a short decimal fraction, close to the smallest, that draws at least one of ``count`` rows."""
    digits = len(str(2 * count)) + 1
    return f"{(10**digits // (2 * count) + 1) / 10**digits:.{digits}f}"  # above 1 / (2 * count), in integers
