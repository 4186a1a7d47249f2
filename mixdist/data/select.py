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
        raise DataError(
            f"data.fraction {data.fraction:g} leaves none of the {len(split.index)} training samples of "
            f"{packed.folder}; use at least {smallest_fraction(len(split.index))}"
        )
    return ids


def labelled_ids(packed: PackedSet, ids: Ids, data: DataConfig) -> Ids:
    """Return those of ``ids`` that have a label.

    Raises:
        DataError: some are labelled, but a class of the set has none of them.
    """
    labels = packed.split("train").labels
    labelled = ids[labels[ids] >= 0]
    if len(labelled) == 0:
        return labelled
    present = np.bincount(labels[labelled], minlength=len(packed.classes))
    for label in np.flatnonzero(present == 0)[:1]:
        name, there = packed.classes[label], int((labels == label).sum())
        if there == 0:
            raise DataError(
                f"class '{name}' of {packed.folder} has no labelled training sample; label some, or drop it"
            )
        way = f"at least {smallest_fraction(there)}" if data.stratified else "a larger one, or data.stratified true"
        raise DataError(
            f"data.fraction {data.fraction:g} leaves class '{name}' of {packed.folder} without a labelled sample "
            f"(it has {there}); use {way}"
        )
    return labelled
