"""Learning rates and α: within their bounds at every step, of the stated shape, and a function of the step alone."""

from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mixdist.schedule import Alpha, Drive, Schedule

PEAK = st.floats(1e-8, 10)
TOTAL = st.integers(1, 400)


@st.composite
def schedules(draw) -> Schedule:
    """Draw a schedule whose warm-up is at most half of it, which is what a plan makes."""
    total = draw(TOTAL)
    return Schedule(draw(PEAK), draw(st.integers(0, total // 2)), total)


@example(Schedule(2.312142116409669, 7, 14))  # whose peak * 7 / 7 rounds to above the peak
@given(schedules())
def test_the_rate_is_above_zero_and_at_most_the_peak_at_every_step(schedule):
    assert all(0 < schedule.at(step) <= schedule.peak for step in range(schedule.total))


@given(schedules())
def test_the_peak_is_reached(schedule):
    assert schedule.at(schedule.warmup) == schedule.peak


@given(schedules())
def test_the_warm_up_rises_by_equal_steps_from_one_step_above_zero(schedule):
    rates = [schedule.at(step) for step in range(schedule.warmup)]
    assert rates == pytest.approx([schedule.peak * (step + 1) / schedule.warmup for step in range(schedule.warmup)])


@given(schedules())
def test_after_the_warm_up_the_rate_only_falls_and_ends_at_zero(schedule):
    rates = [schedule.at(step) for step in range(schedule.warmup, schedule.total + 1)]
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[-1] == 0


def test_the_cosine_is_at_half_the_peak_half_way():
    assert Schedule(2.0, 20, 120).at(70) == pytest.approx(1.0)
    assert Schedule(2.0, 20, 120).at(45) == pytest.approx(1 + 0.5**0.5)  # a quarter of the way: 1 + cos(45 degrees)


@given(schedules(), st.integers(0, 200), st.integers(0, 200))
def test_a_drive_enters_its_schedule_at_its_start(schedule, start, step):
    assert Drive(schedule, start, (0.9, 0.95), 0.05).lr(step) == schedule.at(start + step)


@given(st.floats(0.01, 0.99), st.integers(1, 500), st.data())
def test_a_constant_alpha_is_the_same_at_every_step(value, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    assert Alpha("constant", value, value).at(step, steps) == value


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@given(start=st.floats(0, 1), end=st.floats(0, 1), steps=st.integers(1, 500))
def test_an_annealed_alpha_moves_one_way_strictly_between_its_ends(kind, start, end, steps):
    assume(abs(start - end) > 1e-6)
    low, high = sorted((start, end))
    alphas = [Alpha(kind, start, end).at(step, steps) for step in range(steps)]
    assert all(low < alpha < high for alpha in alphas)
    assert alphas == sorted(alphas, reverse=start > end)
    assert len(set(alphas)) == steps


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@given(steps=st.integers(1, 500))
def test_an_annealed_alpha_is_symmetric_about_its_middle(kind, steps):
    alphas = [Alpha(kind, 1.0, 0.0).at(step, steps) for step in range(steps)]
    assert [1 - alpha for alpha in reversed(alphas)] == pytest.approx(alphas)


def test_the_linear_alpha_moves_by_equal_steps_and_the_cosine_one_slowly_at_the_ends():
    linear = [Alpha("linear", 1.0, 0.0).at(step, 3) for step in range(3)]
    assert linear == pytest.approx([0.75, 0.5, 0.25])
    cosine = [Alpha("cosine", 1.0, 0.0).at(step, 3) for step in range(3)]
    assert cosine == pytest.approx([0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
