"""When a checkpoint is due."""

from hypothesis import given
from hypothesis import strategies as st

from mixdist.engine.checkpoint import Due

counts = st.integers(1, 10**6)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@given(every=counts, times=counts, off=counts)
def test_it_is_due_at_each_multiple_of_epochs_and_steps_and_nowhere_between(every, times, off):
    due = Due(epochs=every, steps=every)
    for at in (due.at_epoch_end, due.at_step):
        assert at(every * times)
        assert at(every * times + off) == (off % every == 0)


def test_by_default_it_is_due_at_the_end_of_each_epoch_only():
    due = Due(epochs=1, clock=(clock := Clock()))
    clock.now += 10**9
    assert all(due.at_epoch_end(epoch) for epoch in range(1, 5))
    assert not any(due.at_step(step) for step in range(1, 100))
    assert not due.by_clock()


def test_the_minutes_count_from_the_start_and_from_each_save_of_whatever_reason():
    due = Due(epochs=1, minutes=0.5, clock=(clock := Clock()))
    clock.now += 29.9
    assert not due.by_clock()
    clock.now += 0.1
    assert due.by_clock()
    assert due.by_clock(), "asking does not save"
    due.saved()
    assert not due.by_clock()
    clock.now += 29
    due.saved()
    clock.now += 29
    assert not due.by_clock()
    clock.now += 1
    assert due.by_clock()
