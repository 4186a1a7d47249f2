"""Shares of a set: stable, nested, the same of every class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixdist.data.subset import random_rows, smallest_fraction, stratified

LABELS = st.lists(st.integers(-1, 4), max_size=80)
FRACTION = st.floats(0, 1)


@given(LABELS, FRACTION, FRACTION, st.integers(0, 2**63 - 1))
def test_the_rows_of_a_fraction_are_among_those_of_every_larger_one(labels, a, b, seed):
    small, large = sorted((a, b))
    assert set(stratified(labels, small, seed, "t")) <= set(stratified(labels, large, seed, "t"))


@given(LABELS, FRACTION, st.integers(0, 2**63 - 1))
def test_every_class_gives_the_rounded_share_unlabelled_rows_included(labels, fraction, seed):
    rows = stratified(labels, fraction, seed, "t")
    drawn = np.array(labels)[rows].tolist()
    assert {c: drawn.count(c) for c in labels} == {c: round(fraction * labels.count(c)) for c in labels}
    assert rows.dtype == np.int64
    assert rows.tolist() == sorted(set(rows.tolist()))


@given(st.integers(0, 200), FRACTION, FRACTION)
def test_random_rows_are_nested_and_the_rounded_share_of_all(count, a, b):
    small, large = (random_rows(count, fraction, 0, "t") for fraction in sorted((a, b)))
    assert set(small) <= set(large)
    assert len(large) == round(max(a, b) * count)


@given(st.integers(1, 10**7))
def test_the_smallest_fraction_draws_one_row_and_one_percent_less_draws_none(count):
    fraction = float(smallest_fraction(count))
    assert round(fraction * count) == 1
    assert round(fraction * count * 0.9) == 0


def test_seed_and_tag_change_the_draw():
    base = stratified([0] * 100, 0.5, 0, "a").tolist()
    assert stratified([0] * 100, 0.5, 1, "a").tolist() != base
    assert stratified([0] * 100, 0.5, 0, "b").tolist() != base


def test_the_draw_is_that_of_a_plain_integer_splitmix64():
    # Which images a published run trained on depends on these values: they must never change.
    def mix(x):
        z = (x + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def expected(row):
        return mix(mix(mix(mix(7) ^ 0xE8B7BE43) ^ row))  # docs/data.md; zlib.crc32(b"a")

    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of the reference implementation at seed 0
    drawn = [row for odd in (0, 1) for row in sorted(range(odd, 12, 2), key=expected)[:3]]
    assert stratified([0, 1] * 6, 0.5, 7, "a").tolist() == sorted(drawn)


def test_a_fraction_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"1\.5"):
        stratified([0], 1.5, 0, "t")
