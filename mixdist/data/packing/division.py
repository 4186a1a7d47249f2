"""Decide, before any image is read, which samples form which split, which keep their label, and in what order."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mixdist.arguments import refuse_below_one, refuse_seed
from mixdist.data.index import UNLABELLED
from mixdist.data.packing.drawing import draw, units_per_class
from mixdist.data.packing.folders import Sample
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.reencode import Encoding
from mixdist.data.packing.shards import SMALLEST_TAR
from mixdist.data.packing.sources import Source
from mixdist.data.packing.videos import VideoOptions
from mixdist.data.subset import smallest_fraction
from mixdist.errors import UserError
from mixdist.keyed import make_key, permutation

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class PackOptions:
    """The options of `mixdist pack`; docs/data.md describes each."""

    test_fraction: float | None = None  #: share of each class moved to "test"; None: 0.2 where the source allows it
    labelled_fraction: float = 1.0  #: share of each class of "train" that keeps its label
    shard_size: int = 10_000  #: samples a shard
    shard_bytes: int | None = None  #: bytes a shard; whichever is reached first
    seed: int = 0
    overwrite: bool = False
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    reading: Reading = field(default_factory=Reading)
    encoding: Encoding = field(default_factory=Encoding)
    video: VideoOptions = field(default_factory=VideoOptions)

    def check(self) -> None:
        """Refuse values out of range with a ``UserError``."""
        if self.test_fraction is not None and not 0 <= self.test_fraction < 1:
            raise UserError(f"--test-fraction {self.test_fraction} is out of range; it should be 0 or more, below 1")
        if not 0 < self.labelled_fraction <= 1:
            raise UserError(
                f"--labelled-fraction {self.labelled_fraction} is out of range; it should be above 0, up to 1"
            )
        refuse_seed(self.seed)
        refuse_below_one(shard_size=self.shard_size, workers=self.workers)
        if self.shard_bytes is not None and self.shard_bytes < SMALLEST_TAR:
            raise UserError(
                f"--shard-bytes {self.shard_bytes} is out of range; it should be {SMALLEST_TAR} or more, as no tar "
                f"is smaller"
            )
        self.encoding.check()


def share_for_test(source: Source, options: PackOptions) -> float | None:
    """Return the share of each class to move to "test"; None where the source decides its splits itself.

    Raises:
        UserError: ``--test-fraction`` was given for a source that does not allow it.
    """
    if "test" in source.splits:
        if options.test_fraction is not None:
            raise UserError(
                f"--test-fraction {options.test_fraction} contradicts the source: {source.name} has a test split of "
                f"its own, which is taken as it is; leave the option out"
            )
        return None
    if not source.classes:
        if options.test_fraction:
            raise UserError(
                f"--test-fraction {options.test_fraction} makes no sense for {source.name}: its images have no labels "
                f"to test with; leave the option out"
            )
        return None
    return TEST_FRACTION if options.test_fraction is None else options.test_fraction


def divide(source: Source, options: PackOptions) -> dict[str, list[Sample]]:
    """Return the samples of each split in the order of the shards, the label -1 for those that lose theirs.

    Raises:
        UserError: an option that leaves a class without train, test or labelled images, or does not fit the source.
    """
    splits = dict(source.splits)
    share = share_for_test(source, options)
    if share:
        splits = _move_to_test(source, share, options.seed)
    if options.labelled_fraction < 1:
        splits["train"] = _keep_labels(source, splits["train"], options)
    return {name: [samples[row] for row in _order(samples, name, options.seed)] for name, samples in splits.items()}


def _order(samples: list[Sample], split: str, seed: int) -> list[int]:
    """Shuffle, so that no shard holds a single class."""
    order: list[int] = permutation(make_key(seed, f"order/{split}"), len(samples)).tolist()
    return order


def _move_to_test(source: Source, share: float, seed: int) -> dict[str, list[Sample]]:
    samples = source.splits["train"]
    drawn = draw(samples, share, seed, "test").tolist()
    moved = {row for row in drawn if samples[row].label != UNLABELLED}  # nothing can be tested on what has no label
    train = [sample for row, sample in enumerate(samples) if row not in moved]
    test = [sample for row, sample in enumerate(samples) if row in moved]
    left = _per_class(source, train)
    if not left.all():
        raise UserError(
            f"--test-fraction {share} leaves class {source.classes[int(left.argmin())]} without train images; "
            f"lower it or add images"
        )
    if not test:
        largest = int(units_per_class(samples, len(source.classes)).max())
        raise UserError(
            f"--test-fraction {share} moves no image to test, the largest class having {largest}; "
            f"use {smallest_fraction(largest)} or more, or 0 for no test split"
        )
    return {"train": train, "test": test}


def _keep_labels(source: Source, samples: list[Sample], options: PackOptions) -> list[Sample]:
    fraction = options.labelled_fraction
    if not source.classes:
        raise UserError(f"--labelled-fraction {fraction} makes no sense for {source.name}: its images have no labels")
    labels = np.array([sample.label for sample in samples])
    kept = np.zeros(len(labels), dtype=bool)
    kept[draw(samples, fraction, options.seed, "labelled")] = True
    left = [sample for sample, keep in zip(samples, kept, strict=True) if keep]
    counts = units_per_class(samples, len(source.classes))
    lost = np.flatnonzero((_per_class(source, left) == 0) & (counts > 0))
    if len(lost):
        fewest = int(lost[counts[lost].argmin()])
        raise UserError(
            f"--labelled-fraction {fraction} leaves class {source.classes[fewest]} ({counts[fewest]} train images) "
            f"without a labelled image; use {smallest_fraction(int(counts[fewest]))} or more"
        )
    return [sample if keep else replace(sample, label=UNLABELLED) for sample, keep in zip(samples, kept, strict=True)]


def _per_class(source: Source, samples: list[Sample]) -> npt.NDArray[np.int64]:
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    return np.bincount(labels[labels != UNLABELLED], minlength=len(source.classes))
