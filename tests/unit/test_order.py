"""The order: every sample once an epoch, the same global batches on any number of ranks, no rank without work."""

from collections.abc import Iterable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixdist.data.order import MIN_ROWS, Order, Rows, sample_of

SAMPLES = st.integers(1, 120)
WORLD = st.integers(1, 8)


def order_of(samples: int, batch: int, seed: int = 0, purpose: str = "sl") -> Order:
    return Order(np.arange(samples) * 3 + 5, batch, seed, purpose)  # ids with gaps, as a fraction leaves them


def steps_of(samples: int, batch: int) -> int:
    return -(-samples // batch)


def shares(order: Order, step: int, world: int, micro_batch: int | None, epoch: int = 0) -> list[list[Rows]]:
    """Return every rank's micro-batches of one step."""
    ids = order.epoch(epoch)
    return [order.share(ids, step, rank, world, micro_batch) for rank in range(world)]


def counted(pieces: Iterable[Rows]) -> list[int]:
    """Return the ids of the rows that count, in order."""
    return [int(one) for rows in pieces for one, weight in zip(rows.visits, rows.weight, strict=True) if weight]


def in_turn(by_rank: list[list[Rows]]) -> list[int]:
    """Return the ids that count in all ranks' micro-batches, one global micro-batch after the other."""
    return [one for pieces in zip(*by_rank, strict=True) for one in counted(pieces)]


@st.composite
def cuts(draw):
    """Draw (order, world size, micro-batch), the batch at least the world size, as a plan demands."""
    world = draw(WORLD)
    batch = draw(st.integers(world, 64))
    return order_of(draw(SAMPLES), batch), world, draw(st.none() | st.integers(1, 64))


@given(cuts())
def test_over_an_epoch_every_sample_counts_exactly_once(cut):
    order, world, micro_batch = cut
    steps = range(steps_of(len(order.ids), order.batch))
    seen = [one for step in steps for pieces in shares(order, step, world, micro_batch) for one in counted(pieces)]
    assert sorted(seen) == order.ids.tolist()


@given(cuts(), st.data())
def test_the_ranks_hold_contiguous_slices_of_each_global_micro_batch_in_turn(cut, data):
    order, world, micro_batch = cut
    step = data.draw(st.integers(0, steps_of(len(order.ids), order.batch) - 1))
    whole = order.epoch(0)[step * order.batch :][: order.batch].tolist()
    by_rank = shares(order, step, world, micro_batch)
    assert in_turn(by_rank) == whole
    for pieces in zip(*by_rank, strict=True):  # a rank with fewer would leave the others inside a forward's collective
        sizes = [len(counted([rows])) for rows in pieces]
        assert max(sizes) - min(sizes) <= 1


@given(SAMPLES, st.integers(8, 64), WORLD, st.integers(1, 8))
def test_the_global_micro_batches_are_the_same_where_ranks_and_micro_batch_multiply_to_the_same(
    samples, batch, world, micro_batch
):
    order = order_of(samples, batch)
    for step in range(steps_of(samples, batch)):
        (alone,) = shares(order, step, 1, micro_batch * world)
        spread = shares(order, step, world, micro_batch)
        assert [counted([rows]) for rows in alone] == [counted(pieces) for pieces in zip(*spread, strict=True)]


@given(cuts(), st.data())
def test_every_rank_has_a_micro_batch_in_every_step_and_each_has_at_least_two_rows(cut, data):
    # A rank without one would leave the others waiting in the all-reduce; one row alone breaks BatchNorm.
    order, world, micro_batch = cut
    step = data.draw(st.integers(0, steps_of(len(order.ids), order.batch) - 1))
    for pieces in shares(order, step, world, micro_batch):
        assert len(pieces) >= 1
        assert all(len(rows.visits) == len(rows.weight) >= MIN_ROWS for rows in pieces)
        assert all(set(rows.weight.tolist()) <= {0.0, 1.0} for rows in pieces)


@given(cuts(), st.data())
def test_a_micro_batch_is_at_most_as_large_as_asked_and_they_are_alike_and_few(cut, data):
    order, world, micro_batch = cut
    step = data.draw(st.integers(0, steps_of(len(order.ids), order.batch) - 1))
    most = micro_batch or order.batch
    by_rank = shares(order, step, world, micro_batch)
    largest = max(len(counted(pieces)) for pieces in by_rank)
    for pieces in by_rank:
        sizes = [int(rows.weight.sum()) for rows in pieces]
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
        assert len(pieces) <= -(-largest // most)
        assert all(len(rows.visits) <= max(most, MIN_ROWS) for rows in pieces)


@given(cuts())
def test_rows_that_fill_up_only_do_so_where_there_are_too_few(cut):
    order, world, micro_batch = cut
    for step in range(steps_of(len(order.ids), order.batch)):
        for rows in chain(*shares(order, step, world, micro_batch)):
            filled = int((rows.weight == 0).sum())
            assert filled == max(0, MIN_ROWS - int(rows.weight.sum()))
            assert set(rows.visits.tolist()) <= set(order.ids.tolist())


@given(SAMPLES, st.integers(8, 64), WORLD, WORLD, st.none() | st.integers(1, 16))
def test_the_global_batches_are_the_same_on_any_number_of_ranks(samples, batch, one, other, micro_batch):
    order = order_of(samples, batch)
    for step in range(steps_of(samples, batch)):
        first, second = (in_turn(shares(order, step, world, micro_batch)) for world in (one, other))
        assert first == second


def test_the_last_short_batch_is_shared_by_all_ranks():
    # 9 samples in batches of 8 on 4 ranks: one row is left for the last step, and three ranks only fill up.
    by_rank = shares(order_of(9, 8), 1, 4, None)
    assert [[rows.weight.tolist() for rows in pieces] for pieces in by_rank] == [[[0, 0]]] * 3 + [[[1, 0]]]


def test_a_set_of_one_sample_is_filled_up_with_itself():
    (rows,) = order_of(1, 4).share(order_of(1, 4).epoch(0), 0, 0, 1, None)
    assert rows.visits.tolist() == [5, 5]
    assert rows.weight.tolist() == [1, 0]


@given(st.integers(20, 200), st.integers(0, 1000))
def test_epochs_seeds_and_purposes_are_shuffled_apart(samples, epoch):
    base = order_of(samples, 8).epoch(epoch).tolist()
    assert base == order_of(samples, 8).epoch(epoch).tolist()
    assert base != order_of(samples, 8).epoch(epoch + 1).tolist()
    assert base != order_of(samples, 8, seed=1).epoch(epoch).tolist()
    assert base != order_of(samples, 8, purpose="ssl").epoch(epoch).tolist()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_order_does_not_depend_on_the_batch(batch):
    np.testing.assert_array_equal(order_of(50, batch).epoch(3), order_of(50, 8).epoch(3))


@given(cuts(), st.data())
def test_an_epoch_taken_up_at_any_step_on_any_number_of_ranks_goes_on_in_the_same_order(cut, data):
    order, _, micro_batch = cut
    seen = []
    for step in range(steps_of(len(order.ids), order.batch)):
        world = data.draw(st.integers(1, min(8, order.batch)))  # stopped and taken up at each step, on other ranks
        seen += in_turn(shares(order, step, world, micro_batch))
    assert seen == order.epoch(0).tolist()


# Shards at a time, and balanced classes


@given(shards=st.lists(st.integers(1, 9), min_size=1, max_size=12), at_once=st.integers(1, 5), epoch=st.integers(0, 5))
def test_shuffled_shards_are_read_a_few_at_a_time_each_sample_once(shards, at_once, epoch):
    of_sample = np.repeat(np.arange(len(shards)), shards)
    ids = np.arange(len(of_sample)) * 3 + 5
    order = Order(ids, 4, 0, "sl", of_sample, at_once).epoch(epoch)
    assert sorted(order) == ids.tolist()
    seen = of_sample[(order - 5) // 3]
    first = {shard: int(np.flatnonzero(seen == shard)[0]) for shard in range(len(shards))}
    last = {shard: int(np.flatnonzero(seen == shard)[-1]) for shard in range(len(shards))}
    for position in range(len(seen)):
        under_way = [shard for shard in first if first[shard] <= position <= last[shard]]
        assert len(under_way) <= at_once


def test_shuffled_shards_come_in_another_order_each_epoch_and_are_mixed_within_a_window():
    of_sample = np.repeat(np.arange(10), 50)
    order = Order(np.arange(500), 4, 0, "sl", of_sample, 5)
    windows = [frozenset(of_sample[order.epoch(epoch)[:250]]) for epoch in range(20)]
    assert all(len(window) == 5 for window in windows)
    assert len(set(windows)) > 10
    counts = np.bincount(of_sample[order.epoch(0)[:50]], minlength=10)
    assert (counts > 0).sum() == 5  # the first fifth of a window holds some of each of its shards


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=6), epoch=st.integers(0, 3), with_shards=st.booleans())
def test_balanced_classes_are_visited_equally_often_and_their_samples_in_turn(sizes, epoch, with_shards):
    classes = np.repeat(np.arange(len(sizes)), sizes)
    ids = np.arange(len(classes)) * 2
    shards = np.arange(len(classes)) % 3 if with_shards else None
    visits = Order(ids, 4, 0, "sl", shards, 1, classes).epoch(epoch)
    assert len(visits) == len(set(visits.tolist())) == len(ids)
    counts = np.bincount(classes[sample_of(visits) // 2], minlength=len(sizes))
    assert counts.max() - counts.min() <= 1
    for number, size in enumerate(sizes):
        of_class = sample_of(visits)[classes[sample_of(visits) // 2] == number]
        times = np.unique(of_class, return_counts=True)[1]
        assert times.max() - times.min() <= 1
        assert len(times) == min(size, counts[number])
