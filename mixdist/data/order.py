"""Which sample stands at which position of an epoch, and which positions a rank takes: integers only.

Nothing here knows of workers or of what came before: position -> sample is a permutation keyed by (seed, epoch),
and a rank's share of a global micro-batch is a contiguous slice. So the same samples meet in the same step on any
number of ranks, and a resume needs no state but the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixdist.keyed import Ids, bits, make_key, permutation

MIN_ROWS = 2  # of a forward: BatchNorm on a 1 x 1 feature map cannot normalise a single image


SPAN = 2**40  # visits of one sample in the same epoch lie this far apart; more samples than any set has


def sample_of(visits: Ids) -> Ids:
    """Return the sample ids of visits. A sample's first visit in an epoch is its id, each later one SPAN more."""
    return visits % SPAN


def set_of(ids: Ids, starts: Ids) -> Ids:
    """Return the number of the set that each joined sample id is from; set k begins at ``starts[k]``."""
    return np.searchsorted(starts, ids, side="right") - 1


@dataclass(frozen=True)
class Rows:
    """The rows of one micro-batch on one rank."""

    visits: Ids  #: sample ids, and which visit of the epoch it is (`sample_of`); all randomness is keyed by it
    weight: npt.NDArray[np.float32]  #: 1, or 0 for a row that only fills up a forward
    places: Ids  #: position in the epoch


@dataclass(frozen=True)
class Order:
    """The order of one set's samples over the epochs of a run."""

    ids: Ids  #: the samples, sorted
    batch: int  #: global
    seed: int
    purpose: str  #: sets of different purposes ("ssl", "sl") are shuffled apart
    shards: npt.NDArray[np.int64] | None = None  #: the shard of each sample, where shards are shuffled; else None
    at_once: int = 1  #: shards that are read at a time
    classes: npt.NDArray[np.int64] | None = None  #: the class of each sample, where classes are balanced; else None

    def epoch(self, epoch: int) -> Ids:
        """Return the visits of 0-based ``epoch`` in their order.

        Each sample exactly once; where classes are balanced, as many visits, spread evenly over the classes.
        """
        visits = self.ids if self.classes is None else self._balanced(epoch)
        order = bits(make_key(self.seed, f"order/{self.purpose}", epoch), np.arange(len(visits)))[:, 0]
        if self.shards is None:
            return visits[np.argsort(order, kind="stable")]
        window = self._windows(epoch)[np.searchsorted(self.ids, sample_of(visits))]
        return visits[np.lexsort((order, window))]

    def windows(self, epoch: int) -> tuple[Ids, Ids]:
        """Return the samples, window after window, and where among them each begins; one window without shards."""
        if self.shards is None:
            return self.ids, np.zeros(1, np.int64)
        window = self._windows(epoch)
        order = np.argsort(window, kind="stable")
        return self.ids[order], np.flatnonzero(np.diff(window[order], prepend=-1))

    def _windows(self, epoch: int) -> Ids:
        """Return for each sample the position of its shard's window: ``at_once`` shards that follow one another.

        Shards are shuffled, and inside a window all samples are. So a bounded number of shards is read at a time. Two
        orders of one purpose shuffle the shards that they share alike, whichever others each has.
        """
        assert self.shards is not None
        present, shard = np.unique(self.shards, return_inverse=True)
        drawn = bits(make_key(self.seed, f"shards/{self.purpose}", epoch), present)[:, 0]
        places = np.argsort(np.argsort(drawn, kind="stable"))
        windows: Ids = places[shard] // self.at_once
        return windows

    def _balanced(self, epoch: int) -> Ids:
        """Return len(ids) visits, as many of each class as the division allows, each class's samples in turn."""
        assert self.classes is not None
        present, classes = np.unique(self.classes, return_inverse=True)
        key = make_key(self.seed, f"balance/{self.purpose}", epoch)
        extra = permutation(key, len(present)) < len(self.ids) % len(present)  # classes with one visit more
        found = []
        for number in range(len(present)):
            members = self.ids[classes == number]
            shuffled = members[permutation(make_key(self.seed, "balance", epoch, number), len(members))]
            turn = np.arange(len(self.ids) // len(present) + int(extra[number]))
            found.append(shuffled[turn % len(members)] + turn // len(members) * SPAN)
        return np.concatenate(found)

    def share(self, order: Ids, step: int, rank: int, world_size: int, micro_batch: int | None) -> list[Rows]:
        """Return the micro-batches of one rank at 0-based ``step`` of an epoch, the same number on every rank.

        A global batch is cut into global micro-batches of at most ``micro_batch`` rows a rank, and a rank takes a
        contiguous slice of each: so what meets in one forward, over all ranks, depends on their number only through
        ``micro_batch * world_size``, and collectives inside of a forward find every rank there. Over all ranks and
        micro-batches, the rows of weight 1 are the global batch, each once. A micro-batch of fewer than ``MIN_ROWS``
        is filled up with the samples that follow in the epoch, at weight 0.
        """
        start = step * self.batch
        count = min(self.batch, len(order) - start)
        most = self.batch if micro_batch is None else micro_batch * world_size
        pieces = -(-count // most)
        length, longer = divmod(count, pieces)  # the first `longer` pieces have one row more
        found = []
        for number in range(pieces):
            begin, rows = start + number * length + min(number, longer), length + (number < longer)
            found.append(_rows(order, begin + rows * rank // world_size, begin + rows * (rank + 1) // world_size))
        return found


def _rows(order: Ids, first: int, last: int) -> Rows:
    """Return the rows from position ``first`` to before ``last``. Plain slices: this runs once a step."""
    visits, weight, places = order[first:last], np.ones(last - first, np.float32), np.arange(first, last)
    missing = MIN_ROWS - len(visits)
    if missing <= 0:
        return Rows(visits, weight, places)
    after = ((last if len(visits) else 0) + np.arange(missing)) % len(order)
    filled = np.r_[weight, np.zeros(missing, np.float32)]
    return Rows(np.r_[visits, order[after]], filled, np.r_[places, after])
