"""Random numbers that are arithmetic: functions of a key and a sample id, never of process state.

Everything random about a sample (its place in the epoch, its crop, flip, mask and mixing partner) comes from
here, so that it is the same on any rank, with any number of workers, before and after a resume, and on any version
of NumPy or torch. The mixer is SplitMix64 (Steele, Lea, Flood 2014), on 64-bit integers that wrap.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # the mixer's constants
MASK = 2**64 - 1

_GOLDEN = np.uint64(GOLDEN)


def splitmix64(x: Bits) -> Bits:
    """Return 64 well-mixed bits for each 64-bit number of ``x``, same shape; a bijection."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
        return x ^ (x >> np.uint64(31))


def make_key(seed: int, purpose: str, *numbers: int) -> int:
    """Fold a seed, a purpose ("order", "mask", …) and further numbers (an epoch) into one 64-bit key."""
    key = 0
    for number in (seed, zlib.crc32(purpose.encode()), *numbers):
        key = _mixed(key ^ (number & MASK))
    return key


def _mixed(x: int) -> int:
    """`splitmix64` of one number: every step makes several keys, and arrays of one element cost ten times as much."""
    x = (x + GOLDEN) & MASK
    x = ((x ^ (x >> 30)) * FIRST) & MASK
    x = ((x ^ (x >> 27)) * SECOND) & MASK
    return x ^ (x >> 31)


def bits(key: int, ids: Ids, draws: int = 1) -> Bits:
    """Return ``draws`` independent 64-bit numbers for each id, shape [len(ids), draws]."""
    rows = splitmix64(ids.astype(np.int64).view(np.uint64) ^ np.uint64(key))
    with np.errstate(over="ignore"):
        steps = np.arange(draws, dtype=np.uint64) * _GOLDEN
        return splitmix64(rows[:, None] + steps[None, :])


def uniform(key: int, ids: Ids, draws: int) -> npt.NDArray[np.float32]:
    """Return numbers uniform in [0, 1) on a grid of 2^-24 (exact in float32), shape [len(ids), draws]."""
    return ((bits(key, ids, draws) >> np.uint64(40)).astype(np.float32)) * np.float32(2**-24)


def permutation(key: int, count: int) -> Ids:
    """Return a permutation of 0 … count − 1, int64: the numbers sorted by their random bits."""
    return np.argsort(bits(key, np.arange(count))[:, 0], kind="stable")
