"""Draw shares of samples such that the frames of one video are never torn apart.

Frames of a video resemble each other: with some in train and some in test, the test would measure memory. A video is
therefore drawn or not drawn as a whole, and counts as one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixdist.data.packing.folders import Sample
from mixdist.data.subset import stratified
from mixdist.keyed import Ids


def draw(samples: list[Sample], fraction: float, seed: int, tag: str) -> Ids:
    """Return the rows of a share of every class (``subset.stratified``), ascending; all or no frames of a video."""
    unit, first = _units(samples)
    drawn = stratified([samples[row].label for row in first], fraction, seed, tag)
    return np.flatnonzero(np.isin(unit, drawn))


def units_per_class(samples: list[Sample], classes: int) -> npt.NDArray[np.int64]:
    """Return how many images and videos each class has, shape [classes]; those without a label do not count."""
    _, first = _units(samples)
    labels = np.array([samples[row].label for row in first], dtype=np.int64)
    return np.bincount(labels[labels >= 0], minlength=classes)


def _units(samples: list[Sample]) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Number images and videos in the order in which they begin: the unit of each row, the first row of each unit."""
    videos: dict[str, int] = {}
    unit = np.empty(len(samples), np.int64)
    first: list[int] = []
    for row, sample in enumerate(samples):
        unit[row] = number = len(first) if sample.video is None else videos.setdefault(sample.video, len(first))
        if number == len(first):
            first.append(row)
    return unit, first
