"""Eq. 2: the mixed input, and partners that are uniform over D_ssl and keyed by sample and epoch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packing import pixels
from tiny_run import make_trainer, tiny_config, tiny_set

from mixdist.data.batch import Batch, Preparation, Statistics
from mixdist.data.mixing import draw_partners, mix_inputs
from mixdist.data.open_set import open_set

CPU = torch.device("cpu")


@given(st.floats(0, 1))
def test_the_mixed_input_is_the_weighted_sum_of_eq_2(ratio):
    x_sl, x_ssl = torch.arange(96.0).reshape(2, 2, 3, 4, 2).unbind(0)
    expected = x_sl + (1 - ratio) * 48  # x_ssl is 48 above x_sl everywhere
    torch.testing.assert_close(mix_inputs(x_sl, x_ssl, ratio), expected, atol=1e-4, rtol=0)


def test_input_ratio_one_is_x_sl_and_zero_is_x_ssl():
    x_sl, x_ssl = torch.arange(96.0).reshape(2, 2, 3, 4, 2).unbind(0)
    assert torch.equal(mix_inputs(x_sl, x_ssl, 1.0), x_sl)
    assert torch.equal(mix_inputs(x_sl, x_ssl, 0.0), x_ssl)


CANDIDATES = np.array([3, 10, 11, 40, 77])


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30), st.integers(0, 1000), st.integers(0, 2**31 - 1))
def test_a_partner_is_a_sample_of_d_ssl_and_depends_on_seed_epoch_and_sample_alone(ids, epoch, seed):
    together = draw_partners(seed, epoch, np.array(ids), CANDIDATES)
    alone = [int(draw_partners(seed, epoch, np.array([one]), CANDIDATES)[0]) for one in ids]
    assert together.tolist() == alone
    assert set(alone) <= set(CANDIDATES.tolist())


def test_partners_are_uniform_over_d_ssl():
    drawn = draw_partners(0, 0, np.arange(50_000), CANDIDATES)
    counts = np.array([(drawn == one).sum() for one in CANDIDATES])
    assert np.abs(counts - 10_000).max() < 4 * 90  # each has a deviation of 89


def test_partners_of_one_sample_are_uniform_over_the_epochs():
    drawn = np.array([draw_partners(0, epoch, np.array([7]), CANDIDATES)[0] for epoch in range(5000)])
    counts = np.array([(drawn == one).sum() for one in CANDIDATES])
    assert np.abs(counts - 1000).max() < 4 * 29


def test_partners_change_with_the_epoch_and_the_seed():
    ids, many = np.arange(200), np.arange(10_000)
    base = draw_partners(0, 0, ids, many)
    for other in (draw_partners(0, 1, ids, many), draw_partners(1, 0, ids, many)):
        assert (base == other).mean() < 0.05


def make(ratio: float, own: Statistics, partner: Statistics) -> Preparation:
    return Preparation(seed=0, augmentation="crop-flip", own=own, partner=partner, input_ratio=ratio)


def batch_of(images: torch.Tensor, ids: np.ndarray, partners: torch.Tensor | None = None, epoch: int = 2) -> Batch:
    count = len(images)
    return Batch(images, torch.arange(count), torch.ones(count), ids, epoch, partners)


def test_each_side_is_normalised_by_its_own_set_before_it_is_mixed():
    black = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    own = Statistics.of((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU)  # black becomes -2
    partner = Statistics.of((0.1, 0.2, 0.4), (0.1, 0.1, 0.1), CPU)  # black becomes -1, -2, -4
    inputs = make(0.25, own, partner)(batch_of(black, np.array([4, 9]), partners=black))
    expected = torch.tensor([0.25 * -2 + 0.75 * value for value in (-1.0, -2.0, -4.0)])
    torch.testing.assert_close(inputs.images, expected[None, :, None, None].expand(2, 3, 8, 8))


def test_the_label_is_that_of_x_sl_and_without_partners_x_mix_is_x_sl():
    images = torch.from_numpy(np.stack([pixels(name, 8, 8) for name in "abc"]))
    statistics = Statistics.of((0.5,) * 3, (0.5,) * 3, CPU)
    prepare = make(0.5, statistics, statistics)
    batch = batch_of(images, np.array([1, 2, 3]))
    plain = make(1.0, statistics, statistics)(batch)
    assert torch.equal(prepare(batch).images, plain.images)
    assert torch.equal(prepare(batch_of(images, batch.ids, partners=images)).labels, batch.labels)


def test_the_two_sides_of_a_mixed_input_are_augmented_apart():
    # Were both views the same, mixing an image with itself would give that one view.
    images = torch.from_numpy(np.stack([pixels(name, 8, 8) for name in "abcdef"]))
    statistics = Statistics.of((0.5,) * 3, (0.5,) * 3, CPU)
    prepare = make(0.5, statistics, statistics)
    ids = np.arange(6)
    mixed, alone = prepare(batch_of(images, ids, partners=images)), prepare(batch_of(images, ids))
    assert not torch.allclose(mixed.images, alone.images)


@pytest.mark.parametrize("std", [0.0, 1.0])
def test_a_channel_that_never_varies_keeps_its_scale(std):
    assert Statistics.of((0.5,) * 3, (std,) * 3, CPU).std.tolist() == [1.0] * 3


def test_rows_that_only_fill_up_are_not_counted():
    batch = batch_of(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), np.arange(3))
    filled = Batch(batch.images, batch.labels, torch.tensor([1.0, 1.0, 0.0]), batch.ids, 0)
    assert (batch.weight.sum(), filled.weight.sum()) == (3, 2)


def test_sets_of_other_sizes_and_classes_train_all_phases_at_one_size_each_by_its_own_statistics(tmp_path):
    # Tables 3 and 4: SSL on Tiny ImageNet (64 px, 200 classes), SL on CIFAR (32 px, 10).
    own, other = tiny_set(tmp_path / "own"), tiny_set(tmp_path / "other", classes=5, train=13, size=16)
    trainer = make_trainer(tiny_config(own, tmp_path / "run", {"data.ssl": other, "data.image_size": 8}))
    prepare = trainer.feed.train["mix"].prepare
    for statistics, place in ((prepare.own, own), (prepare.partner, other)):
        torch.testing.assert_close(statistics.mean, torch.tensor(open_set(place).mean))
    assert not torch.allclose(prepare.own.mean, prepare.partner.mean)
    batches = next(trainer.feed.train["mix"].epoch(0, 1))
    assert batches[0].images.shape == batches[0].partners.shape == (8, 8, 8, 3)
    assert trainer.model.classifier.out_features == 3
    seen = [(record.phase, record.loss_ssl, record.loss_sl) for record in trainer.records()]
    assert {phase for phase, _, _ in seen} == {"ssl", "mix", "sl"}
    assert all(loss is None or np.isfinite(loss) for _, *losses in seen for loss in losses)
