"""Which samples belong to a share of a set: keyed hashes, so that a share depends on the seed alone.

The labelled images of a published run stay the same images on any version of NumPy (mixdist/keyed.py). Shares are
nested: the rows at a fraction are among the rows at every larger one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixdist.keyed import Ids, bits, make_key


def stratified(labels: npt.ArrayLike, fraction: float, seed: int, tag: str) -> Ids:
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
    hashes = bits(make_key(seed, tag), np.arange(len(labels)))[:, 0]
    order = np.lexsort((hashes, labels))  # by class, then by hash, then by row
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    taken = np.rint(fraction * counts)  # as round(): a half goes to the even number
    return np.sort(order[rank < np.repeat(taken, counts)]).astype(np.int64)


def random_rows(count: int, fraction: float, seed: int, tag: str) -> Ids:
    """Draw ``round(fraction * count)`` of the rows 0 to ``count - 1`` without regard to class, ascending."""
    return stratified(np.zeros(count, dtype=np.int64), fraction, seed, tag)


def smallest_fraction(count: int) -> str:
    """Return a short decimal fraction, close to the smallest, that draws at least one of ``count`` rows."""
    digits = len(str(2 * count)) + 1
    return f"{(10**digits // (2 * count) + 1) / 10**digits:.{digits}f}"  # above 1 / (2 * count), in integers
