"""Who takes part, and with which label: the semi-supervised share, SSL on the rest, label noise."""

from dataclasses import replace

import numpy as np
import pytest
from feeds import ALONE, batches, config, feed_of, rank_of
from hypothesis import assume, given
from hypothesis import strategies as st

from mixdist.config.data_section import DataConfig
from mixdist.data.open_set import open_set
from mixdist.data.samples import find_samples
from mixdist.data.select import noisy_labels, training_ids
from mixdist.errors import DataError

LABELS = np.r_[np.repeat(np.arange(5), 2000), np.full(500, -1)].astype(np.int32)


def noise(probability: float, seed: int = 0) -> DataConfig:
    return DataConfig(sl="somewhere", label_noise=probability, subset_seed=seed)


def test_label_noise_changes_its_share_of_the_labels_to_each_other_class_alike():
    noisy = noisy_labels(LABELS, 5, noise(0.2))
    changed = noisy != LABELS
    assert not changed[LABELS < 0].any()
    assert abs(changed[LABELS >= 0].mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 10_000)
    shifts = np.bincount((noisy - LABELS)[changed] % 5, minlength=5)
    assert shifts[0] == 0
    assert (abs(shifts[1:] - changed.sum() / 4) < 5 * np.sqrt(changed.sum() / 4)).all()


def test_label_noise_depends_on_the_subset_seed_alone_and_a_smaller_one_is_part_of_a_larger():
    assert np.array_equal(noisy_labels(LABELS, 5, noise(0.2)), noisy_labels(LABELS, 5, noise(0.2)))
    assert not np.array_equal(noisy_labels(LABELS, 5, noise(0.2)), noisy_labels(LABELS, 5, noise(0.2, 1)))
    small, large = (noisy_labels(LABELS, 5, noise(share)) for share in (0.1, 0.3))
    changed = small != LABELS
    assert np.array_equal(small[changed], large[changed])
    assert noisy_labels(LABELS, 5, noise(0)) is LABELS


def test_label_noise_reaches_training_and_spares_the_test_split(sets):
    settings = config(sets / "whole", data__label_noise=0.5)
    feed, labels = feed_of(settings), open_set(sets / "whole").split("train").labels
    seen = {
        int(one): int(label)
        for batch in batches(feed, settings, "sl")
        for one, label in zip(batch.ids, batch.labels, strict=True)
    }
    assert 5 < sum(seen[one] != labels[one] for one in seen) < 32
    test = open_set(sets / "whole").split("test").labels
    assert [int(label) for batch in feed.test for label in batch.labels] == test.tolist()


def test_a_sample_carries_one_label_through_all_supervised_epochs_ranks_and_arms(sets):
    def seen(world=ALONE, **more):
        settings = config(sets / "whole", data__label_noise=0.5, method__ssl_epochs=4, method__sl_epochs=4, **more)
        feed = feed_of(settings, world)
        return {
            (int(one), int(label))
            for phase in ("mix", "sl")
            if phase in feed.train
            for epoch in (0, 1, 5)
            for batch in batches(feed, settings, phase, epoch)
            for one, label in zip(batch.ids, batch.labels, strict=True)
        }

    mixed = seen(method__mix_ratio=0.5)
    assert len(mixed) == 37  # one label a sample
    assert mixed == seen(method__arm="sl") == seen(method__arm="ssl+sl")
    assert mixed == seen(rank_of(0, 2)) | seen(rank_of(1, 2))


@given(a=st.floats(0.3, 1), b=st.floats(0.3, 1), stratified=st.booleans())
def test_the_labels_kept_at_a_share_are_kept_at_every_larger_one_and_ssl_sees_all(sets, a, b, stratified):
    def samples(share: float):
        return find_samples(config(sets / "whole", data__labelled_fraction=share, data__stratified=stratified))

    try:
        small, large = (samples(share) for share in sorted((a, b)))
    except DataError:
        assume(stratified)  # a random share may miss a class, a stratified one of 0.3 may not
        raise
    assert set(small.sl_ids) <= set(large.sl_ids)
    assert small.ssl_ids.tolist() == list(range(37))
    if stratified:
        labels = open_set(sets / "whole").split("train").labels
        expected = [round(min(a, b) * count) for count in (21, 12, 4)]
        assert np.bincount(labels[small.sl_ids]).tolist() == expected


def test_a_labelled_fraction_that_empties_a_class_is_refused_with_both_settings(sets):
    with pytest.raises(DataError, match=r"data\.fraction 1 with data\.labelled_fraction 0\.1 leaves class 'cedar'"):
        find_samples(config(sets / "whole", data__labelled_fraction=0.1))


def test_ssl_may_see_the_unlabelled_samples_only(sets):
    samples = find_samples(config(sets / "partly", data__ssl_only_unlabelled=True))
    labels = open_set(sets / "partly").split("train").labels
    assert samples.ssl_ids.tolist() == np.flatnonzero(labels < 0).tolist()
    assert samples.unlabelled == len(samples.ssl_ids)
    halved = find_samples(config(sets / "whole", data__ssl_only_unlabelled=True, data__labelled_fraction=0.5))
    assert sorted([*halved.ssl_ids, *halved.sl_ids]) == list(range(37))
    settings = config(sets / "partly", data__ssl_only_unlabelled=True, method__mix_ratio=0.5)
    seen = {
        phase: {int(one) for batch in batches(feed_of(settings), settings, phase) for one in batch.ids}
        for phase in ("ssl", "mix")
    }
    assert seen["ssl"].isdisjoint(seen["mix"])


def test_ssl_without_a_single_unlabelled_sample_is_refused(sets):
    with pytest.raises(DataError, match=r"data\.ssl_only_unlabelled leaves no sample of .*, as all 37 have a label"):
        find_samples(config(sets / "whole", data__ssl_only_unlabelled=True))


def test_balanced_classes_reach_the_supervised_batches_only(sets):
    settings = config(sets / "whole", data__balanced=True)
    feed = feed_of(settings)
    labels = np.concatenate([batch.labels.numpy() for batch in batches(feed, settings, "sl")])
    assert sorted(np.bincount(labels)) == [12, 12, 13]
    ssl = np.concatenate([batch.ids for batch in batches(feed, settings, "ssl")])
    assert sorted(ssl) == list(range(37))


def test_shuffled_shards_reach_the_stream(sets):
    settings = config(sets / "whole", data__shuffle="shards", data__shards_at_once=1)
    shards = open_set(sets / "whole").split("train").index["shard"]
    seen = np.concatenate([shards[batch.ids] for batch in batches(feed_of(settings), settings, "sl")])
    assert (np.diff(seen) != 0).sum() == 3  # four shards, one after the other


@pytest.mark.parametrize("stratified", [False, True])
def test_a_train_split_without_samples_is_named(sets, stratified):
    packed = open_set(sets / "whole")
    none = replace(packed.split("train"), index=packed.split("train").index[:0])
    empty = replace(packed, splits={**packed.splits, "train": none})
    with pytest.raises(DataError, match=r"the train split of .*whole holds no sample"):
        training_ids(empty, DataConfig(sl="somewhere", fraction=0.5, stratified=stratified))
