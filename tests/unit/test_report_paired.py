"""Arms are held against each other seed by seed, by a paired t-test that is the one everybody knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_runs import three_arms, write_run
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixdist.report.collect import collect
from mixdist.report.figures import pareto_front
from mixdist.report.paired import comparisons, paired
from mixdist.report.summarise import Group, group_runs


def groups_of(folder: Path) -> list[Group]:
    return group_runs(collect([str(folder)]).runs)


def arms(folder: Path, ours: dict[int, float], theirs: dict[int, float]) -> tuple[Group, Group]:
    for arm, scores in (("mixtraining", ours), ("ssl+sl", theirs)):
        for seed, accuracy in scores.items():
            write_run(folder / f"{arm}-{seed}", arm, seed, accuracy)
    other, group = groups_of(folder)
    return group, other


def test_the_test_is_the_one_of_scipy_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    ours, theirs = {0: 71.2, 1: 70.1, 2: 72.9, 3: 70.8, 9: 99.0}, {0: 69.9, 1: 70.4, 2: 70.2, 3: 69.1, 8: 1.0}
    pair = paired(*arms(tmp_path, ours, theirs))
    common = [0, 1, 2, 3]
    reference = stats.ttest_rel([ours[seed] for seed in common], [theirs[seed] for seed in common])
    interval = reference.confidence_interval(0.95)
    assert pair is not None
    assert pair.seeds == (0, 1, 2, 3)
    assert pair.mean == pytest.approx(1.35)
    assert pair.p == pytest.approx(reference.pvalue)
    assert pair.interval == pytest.approx((interval.low, interval.high))
    assert pair.sentence == (
        "mixtraining against ssl+sl: +1.35 points over 4 common seeds "
        f"(95% interval {interval.low:+.2f} to {interval.high:+.2f}, paired t-test p = {reference.pvalue:.2g})"
    )


def test_one_common_seed_gives_a_difference_and_no_test(tmp_path: Path) -> None:
    pair = paired(*arms(tmp_path, {0: 70.0, 1: 60.0}, {1: 50.0, 2: 40.0}))
    assert pair is not None
    assert (pair.seeds, pair.mean, pair.interval, pair.p) == ((1,), 10.0, None, None)
    assert "one seed says nothing of chance" in pair.sentence


def test_no_common_seed_gives_no_line(tmp_path: Path) -> None:
    assert paired(*arms(tmp_path, {0: 70.0}, {1: 50.0})) is None
    assert comparisons(groups_of(tmp_path)) == []


def test_a_difference_that_is_the_same_at_each_seed_has_no_p(tmp_path: Path) -> None:
    pair = paired(*arms(tmp_path, {0: 70.0, 1: 71.0}, {0: 69.0, 1: 70.0}))
    assert pair is not None
    assert (pair.interval, pair.p) == ((1.0, 1.0), None)


def test_each_arm_is_held_against_those_before_it(tmp_path: Path) -> None:
    pairs = [(pair.group.arm, pair.other.arm) for pair in comparisons(groups_of(three_arms(tmp_path)))]
    assert pairs == [("ssl+sl", "sl"), ("mixtraining", "ssl+sl"), ("mixtraining", "sl")]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_pareto_front_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    front = [points[number] for number in pareto_front(points)]
    beaten = [any(s <= t and a >= b and (s, a) != (t, b) for s, a in points) for t, b in points]
    assert set(front) == {point for point, lost in zip(points, beaten, strict=True) if not lost}
    assert len(front) == len(set(front))
    assert np.all(np.diff(np.array([seconds for seconds, _ in front])) > 0)
