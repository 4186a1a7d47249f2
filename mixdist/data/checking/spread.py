"""How well a batch is mixed: the expected number of distinct shards and classes among samples drawn together.

Of N samples, m of which belong to a group, a batch of B drawn without replacement misses the group with probability
C(N - m, B) / C(N, B); the expected number of distinct groups is the sum of what is left to 1 (exact).
"""

from __future__ import annotations

from math import exp, lgamma

import numpy as np
import numpy.typing as npt

from mixdist.data.index import Split
from mixdist.keyed import make_key, permutation

DRAWS = 200  # choices of K shards that are averaged: the mean is within 1 % or so

Counts = npt.NDArray[np.int64]


def expected_distinct(groups: Counts, samples: int, batch: int) -> float:
    """Return the expected number of distinct groups in a random batch.

    Args:
        groups: samples of each group, shape [groups].
        samples: of which the batch is drawn; those outside every group count too.
        batch: samples drawn, without replacement.
    """
    batch = min(batch, samples)
    sizes, times = np.unique(groups[groups > 0], return_counts=True)
    missed = [_misses(samples, int(size), batch) for size in sizes]
    return float(((1 - np.array(missed)) * times).sum())


def _misses(samples: int, size: int, batch: int) -> float:
    rest = samples - size
    if rest < batch:
        return 0.0
    return exp(lgamma(rest + 1) - lgamma(rest - batch + 1) - lgamma(samples + 1) + lgamma(samples - batch + 1))


def full_permutation(split: Split, batch: int) -> tuple[float, float]:
    """Return the expected distinct shards and classes in a batch when any sample may follow any other; exact."""
    samples = len(split.index)
    shards = np.array([shard.samples for shard in split.shards])
    return expected_distinct(shards, samples, batch), expected_distinct(_classes(split.labels), samples, batch)


def some_shards_at_once(split: Split, batch: int, at_once: int, seed: int) -> tuple[float, float]:
    """Return the same when ``at_once`` random shards are read together and permuted within.

    Exact within the chosen shards, and the mean over ``DRAWS`` seeded choices, weighted by their samples.
    """
    if at_once >= len(split.shards):
        return full_permutation(split, batch)
    rows = np.argsort(split.index["shard"], kind="stable")
    ends = np.cumsum([shard.samples for shard in split.shards])
    by_shard = [split.labels[part] for part in np.split(rows, ends[:-1])]
    results, weights = [], []
    for draw in range(DRAWS):
        chosen = permutation(make_key(seed, "check/shards", draw), len(by_shard))[:at_once]
        sizes = np.array([len(by_shard[shard]) for shard in chosen])
        labels = np.concatenate([by_shard[shard] for shard in chosen])
        samples = len(labels)
        results.append((expected_distinct(sizes, samples, batch), expected_distinct(_classes(labels), samples, batch)))
        weights.append(samples)
    shards, classes = np.average(np.array(results), axis=0, weights=weights).tolist()
    return shards, classes


def sortedness(split: Split) -> float:
    """Return how many classes a shard holds, of those it would hold if samples were spread at random, 0 to 1.

    1 where a shard's classes are as mixed as chance makes them; 1 / classes where shards hold one class each.
    """
    labels = split.labels
    classes, labelled = _classes(labels), labels >= 0
    held = len(np.unique(split.index["shard"][labelled].astype(np.int64) * len(classes) + labels[labelled]))
    expected = sum(expected_distinct(classes, len(labels), shard.samples) for shard in split.shards)
    return held / expected if expected else 1.0


def _classes(labels: npt.NDArray[np.int32]) -> Counts:
    return np.bincount(labels[labels >= 0])
