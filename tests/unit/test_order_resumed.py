"""Everything that divides an epoch, drawn at once: what is left after a resume comes once each, in the same order."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mixdist.data.order import MIN_ROWS, Order, sample_of
from mixdist.data.reading.pool import Pool

# Shards as the numbers of their samples; a class for each sample is drawn beside them.
SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=6)
LAYOUT = st.tuples(st.integers(1, 6), st.integers(1, 5), st.none() | st.integers(1, 9))  # ranks, workers, micro-batch


@st.composite
def orders(draw):
    """Draw an order: a set, a batch, and how it is shuffled and balanced."""
    of_sample = np.repeat(np.arange(len(sizes := draw(SHARDS))), sizes)
    ids = np.flatnonzero(draw(st.lists(st.booleans(), min_size=len(of_sample), max_size=len(of_sample))))
    ids = ids if len(ids) else np.array([len(of_sample) - 1])
    classes = draw(st.lists(st.integers(0, 3), min_size=len(of_sample), max_size=len(of_sample)))
    shards = of_sample[ids] if draw(st.booleans()) else None
    balanced = np.array(classes)[ids] if draw(st.booleans()) else None
    return Order(
        ids, draw(st.integers(1, 12)), draw(st.integers(0, 3)), "sl", shards, draw(st.integers(1, 3)), balanced
    )


def trained(order, epoch, steps, layout):
    """Return the visits of these steps in their global order: by micro-batch, then rank, then worker."""
    ranks, workers, micro_batch = layout
    visits = order.epoch(epoch)  # each start of a run computes it anew
    found = []
    for step in steps:
        shares = [order.share(visits, step, rank, ranks, micro_batch) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1  # or a collective would wait for ever
        for of_ranks in zip(*shares, strict=True):
            for rows in of_ranks:
                assert len(rows.visits) >= MIN_ROWS
                read = by_workers(rows.visits, workers)
                found.append(read[rows.weight == 1])
    return np.concatenate([np.empty(0, np.int64), *found])


def by_workers(visits, workers):
    """Return what the workers of a pool read of a micro-batch, put together."""
    pool = SimpleNamespace(_workers=range(workers))
    return np.concatenate([visits[slice(*Pool._part(pool, number, len(visits)))] for number in range(workers)])


@settings(max_examples=200)
@given(order=orders(), epoch=st.integers(0, 2), before=LAYOUT, after=LAYOUT, data=st.data())
def test_an_epoch_resumed_anywhere_under_another_layout_is_the_same_epoch(order, epoch, before, after, data):
    steps = -(-len(order.ids) // order.batch)
    resumed = data.draw(st.integers(0, steps), label="resumed")
    first = trained(order, epoch, range(resumed), before)
    rest = trained(order, epoch, range(resumed, steps), after)
    np.testing.assert_array_equal(np.r_[first, rest], trained(order, epoch, range(steps), (1, 1, None)))
    visits = np.r_[first, rest]
    assert len(np.unique(visits)) == len(visits) == len(order.ids)
    if order.classes is None:
        np.testing.assert_array_equal(np.sort(visits), order.ids)
    else:
        counts = np.bincount(order.classes[np.searchsorted(order.ids, sample_of(visits))])
        assert np.ptp(counts[np.unique(order.classes)]) <= 1
