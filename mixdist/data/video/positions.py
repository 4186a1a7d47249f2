"""Where in a clip a visit looks: arithmetic, as all that is random about a sample (mixdist/keyed.py)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixdist.keyed import Ids, bits, make_key


def first_frame(seed: int, epoch: int, ids: Ids, frames: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Draw the first of ``count`` consecutive frames for each clip: uniform over all that leave room for the others.

    Args:
        seed: the run's.
        epoch: another epoch looks elsewhere.
        ids: the samples, shape [n].
        frames: number of frames of each, shape [n] (the index's field).
        count: frames a visit; a clip with no more than these begins at 0.

    Returns:
        int64 [n].
    """
    room = np.maximum(np.asarray(frames, np.int64) - count, 0).astype(np.uint64) + np.uint64(1)
    drawn = bits(make_key(seed, "clip", epoch), ids)[:, 0] >> np.uint64(32)
    return ((drawn * room) >> np.uint64(32)).astype(np.int64)  # exact: both factors have 32 bits


def centre_frame(frames: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Return the first of the ``count`` frames in the middle of each clip, which evaluation takes; int64 [n]."""
    return np.maximum(np.asarray(frames, np.int64) - count, 0) // 2
