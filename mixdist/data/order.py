"""Which sample stands at which position of an epoch, and which positions a rank takes: integers only.

Nothing here knows of workers or of what came before: position -> sample is a permutation keyed by (seed, epoch),
and a rank's share of a global batch is a contiguous slice. So the same samples meet in the same step on any number
of ranks, and a resume needs no state but the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixdist.keyed import Ids, make_key, permutation

MIN_ROWS = 2  # of a forward: BatchNorm on a 1 x 1 feature map cannot normalise a single image


@dataclass(frozen=True)
class Rows:
    """The rows of one micro-batch on one rank."""

    ids: Ids  #: sample ids
    weight: npt.NDArray[np.float32]  #: 1, or 0 for a row that only fills up a forward


@dataclass(frozen=True)
class Order:
    """The order of one set's samples over the epochs of a run."""

    ids: Ids  #: the samples, sorted
    batch: int  #: global
    seed: int
    purpose: str  #: sets of different purposes ("ssl", "sl") are shuffled apart

    def epoch(self, epoch: int) -> Ids:
        """Return all samples in the order of 0-based ``epoch``, each exactly once."""
        return self.ids[permutation(make_key(self.seed, f"order/{self.purpose}", epoch), len(self.ids))]

    def share(self, order: Ids, step: int, rank: int, world_size: int, micro_batch: int | None) -> list[Rows]:
        """Return the micro-batches of one rank at 0-based ``step`` of an epoch, at least one.

        Over all ranks and micro-batches, the rows of weight 1 are the global batch, each once. A micro-batch of
        fewer than ``MIN_ROWS`` is filled up with the samples that follow in the epoch, at weight 0.
        """
        start = step * self.batch
        count = min(self.batch, len(order) - start)
        first, last = start + count * rank // world_size, start + count * (rank + 1) // world_size
        pieces = max(1, -(-(last - first) // (micro_batch or self.batch)))
        return [_rows(order, piece) for piece in np.array_split(np.arange(first, last), pieces)]


def _rows(order: Ids, positions: npt.NDArray[np.int64]) -> Rows:
    missing = max(0, MIN_ROWS - len(positions))
    after = (positions[-1] + 1 if len(positions) else 0) + np.arange(missing)
    weight = np.r_[np.ones(len(positions), np.float32), np.zeros(missing, np.float32)]
    return Rows(order[np.r_[positions, after].astype(np.int64) % len(order)], weight)
