"""Which samples of a packed set take part, and with which labels: the fraction p, the labelled share, label noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixdist.config.data_section import DataConfig
from mixdist.data.index import PackedSet
from mixdist.data.subset import random_rows, smallest_fraction, stratified
from mixdist.errors import DataError
from mixdist.keyed import Ids, bits, make_key, permutation, uniform

PROBED = 10_000  # images of either split that probes of frozen features look at, at most


def training_ids(packed: PackedSet, data: DataConfig) -> Ids:
    """Return the sample ids of the train split that the data limitation p leaves, sorted; nested in p.

    Raises:
        DataError: nothing is left.
    """
    split = packed.split("train")
    if len(split.index) == 0:
        raise DataError(f"the train split of {packed.location} holds no sample")
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
            f"{packed.location}; use at least {smallest_fraction(int(rarest))}"
        )
    return ids


def labelled_ids(packed: PackedSet, ids: Ids, data: DataConfig) -> Ids:
    """Return those of ``ids`` that have a label and keep it, sorted; nested in data.labelled_fraction.

    Raises:
        DataError: the set has labels, but a class of it is left without a sample.
    """
    labels = packed.split("train").labels
    labelled = _keeping(ids[labels[ids] >= 0], labels, data)
    missing = np.flatnonzero(np.bincount(labels[labelled], minlength=len(packed.classes)) == 0)
    if len(missing) == 0 or not (labels >= 0).any():
        return labelled
    counts = np.bincount(labels[labels >= 0], minlength=len(packed.classes))
    rarest = missing[np.argmin(counts[missing])]  # what serves this class serves the others
    name, there = packed.classes[rarest], int(counts[rarest])
    if there == 0:
        raise DataError(f"class '{name}' of {packed.location} has no labelled training sample; label some, or drop it")
    halved = data.labelled_fraction < 1
    way = f"at least {smallest_fraction(there)}" if data.stratified else "a larger one, or data.stratified true"
    raise DataError(
        f"data.fraction {data.fraction:g}"
        + (f" with data.labelled_fraction {data.labelled_fraction:g}" if halved else "")
        + f" leaves class '{name}' of {packed.location} without a labelled sample (it has {there}); use "
        + (f"shares whose product is {way}" if halved and data.stratified else way)
    )


def _keeping(labelled: Ids, labels: npt.NDArray[np.int32], data: DataConfig) -> Ids:
    """Draw the samples that keep their label (Sec. 4.4.1), of each class alike where the fraction is stratified."""
    share, seed = data.labelled_fraction, data.subset_seed
    if share == 1:
        return labelled
    if data.stratified:
        return labelled[stratified(labels[labelled], share, seed, "labelled_fraction")]
    return labelled[random_rows(len(labelled), share, seed, "labelled_fraction")]


def unlabelled_ids(packed: PackedSet, ids: Ids, keeping: Ids) -> Ids:
    """Return those of ``ids`` that the supervised phases do not see with their label (data.ssl_only_unlabelled).

    Raises:
        DataError: all have one.
    """
    left = np.setdiff1d(ids, keeping)
    if len(left) == 0:
        raise DataError(
            f"data.ssl_only_unlabelled leaves no sample of {packed.location} for SSL, as all {len(ids)} have a label; "
            f"leave it out, or lower data.labelled_fraction"
        )
    return left


def noisy_labels(labels: npt.NDArray[np.int32], classes: int, data: DataConfig) -> npt.NDArray[np.int32]:
    """Change each label with probability data.label_noise to one of the other classes (Sec. 4.4.2); -1 stays.

    Keyed by (data.subset_seed, sample), so that the noise is the same in every epoch, arm and layout.
    """
    if data.label_noise == 0 or classes < 2:
        return labels
    ids = np.arange(len(labels))
    changed = uniform(make_key(data.subset_seed, "label-noise"), ids, 1)[:, 0] < data.label_noise
    shift = 1 + bits(make_key(data.subset_seed, "label-noise/class"), ids)[:, 0] % np.uint64(classes - 1)
    other = (labels + shift.astype(np.int32)) % classes
    return np.where(changed & (labels >= 0), other, labels).astype(np.int32)


def at_most(most: int, ids: Ids) -> Ids:
    """Return ``most`` of the samples, sorted, the same in every run; all of them, where there are no more."""
    return ids if len(ids) <= most else np.sort(ids[permutation(make_key(0, "probe"), len(ids))[:most]])
