"""Which samples of a packed set take part: the fraction p, the labelled ones, and no class left without any."""

from __future__ import annotations

import numpy as np

from mixdist.config.schema import DataConfig
from mixdist.data.index import PackedSet
from mixdist.data.subset import random_rows, smallest_fraction, stratified
from mixdist.errors import DataError
from mixdist.keyed import Ids


def training_ids(packed: PackedSet, data: DataConfig) -> Ids:
    """Return the sample ids of the train split that the data limitation p leaves, sorted; nested in p.

    Raises:
        DataError: nothing is left.
    """
    split = packed.split("train")
    if data.fraction == 1:
        ids = np.arange(len(split.index))
    elif data.stratified:
        ids = stratified(split.labels, data.fraction, data.subset_seed, "fraction")
    else:
        ids = random_rows(len(split.index), data.fraction, data.subset_seed, "fraction")
    if len(ids) == 0:
        rarest = np.unique(split.labels, return_counts=True)[1].min() if data.stratified else len(split.index)
        raise DataError(
            f"data.fraction {data.fraction:g} leaves none of the {len(split.index)} training samples of "
            f"{packed.folder}; use at least {smallest_fraction(int(rarest))}"
        )
    return ids


def labelled_ids(packed: PackedSet, ids: Ids, data: DataConfig) -> Ids:
    """Return those of ``ids`` that have a label.

    Raises:
        DataError: the set has labels, but a class of it is left without a sample.
    """
    labels = packed.split("train").labels
    labelled = ids[labels[ids] >= 0]
    missing = np.flatnonzero(np.bincount(labels[labelled], minlength=len(packed.classes)) == 0)
    if len(missing) == 0 or not (labels >= 0).any():
        return labelled
    counts = np.bincount(labels[labels >= 0], minlength=len(packed.classes))
    rarest = missing[np.argmin(counts[missing])]  # what serves this class serves the others
    name, there = packed.classes[rarest], int(counts[rarest])
    if there == 0:
        raise DataError(f"class '{name}' of {packed.folder} has no labelled training sample; label some, or drop it")
    way = f"at least {smallest_fraction(there)}" if data.stratified else "a larger one, or data.stratified true"
    raise DataError(
        f"data.fraction {data.fraction:g} leaves class '{name}' of {packed.folder} without a labelled sample "
        f"(it has {there}); use {way}"
    )
