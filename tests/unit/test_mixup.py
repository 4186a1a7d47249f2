"""Mixup of the baselines (Sec. 4.4.3): two images and two targets, by a share that is keyed by sample and epoch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feeds import batches, config, feed_of, rank_of, stored
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny_run import make_trainer, tiny_config, tiny_set

from mixdist.data.mixing import Mixup, draw_shares
from mixdist.data.open_set import open_set
from mixdist.data.select import noisy_labels
from mixdist.engine.passes import first_rows
from mixdist.objectives import classification_loss

NOT_AUGMENTED = {"data__augment": "none", "method__mix_ratio": 0.5}


@pytest.mark.parametrize("concentration", [0.1, 0.2, 1.0, 3.0, 50.0])
def test_shares_follow_the_beta_distribution(concentration):
    shares = draw_shares(0, 3, np.arange(20_000), concentration)
    for value in (0.001, 0.02, 0.1, 0.3, 0.5, 0.62, 0.9, 0.99):  # nearer to 1, float32 has few numbers left
        expected = stats.beta(concentration, concentration).cdf(value)
        assert abs((shares <= value).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000) + 1e-4


@given(st.floats(1e-6, 1e6), st.lists(st.integers(0, 10**9), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_share_is_in_0_to_1_and_depends_on_seed_epoch_and_sample_alone(concentration, ids, epoch):
    together = draw_shares(5, epoch, np.array(ids), concentration)
    alone = [float(draw_shares(5, epoch, np.array([one]), concentration)[0]) for one in ids]
    assert together.tolist() == alone
    assert ((together >= 0) & (together <= 1)).all()


def test_shares_and_partners_change_with_the_epoch_and_the_seed(sets):
    def drawn(epoch, seed):
        settings = config(sets / "whole", train__mixup=1.0)
        settings = settings.model_copy(update={"seed": seed})
        found = batches(feed_of(settings), settings, "sl", epoch)
        return {
            int(one): float(share) for batch in found for one, share in zip(batch.ids, batch.mixup.share, strict=True)
        }

    base = drawn(0, 0)
    assert base == drawn(0, 0)
    for other in (drawn(1, 0), drawn(0, 1)):
        assert sum(base[one] == other[one] for one in base) < 3


def test_the_inputs_are_the_weighted_sum_of_two_images_of_d_sl_and_carry_both_labels(sets):
    settings = config(sets / "whole", train__mixup=1.0, data__ssl=sets / "plain", **NOT_AUGMENTED)
    labels = open_set(sets / "whole").split("train").labels
    images = np.stack([stored(sets / "whole", "train", one) for one in range(37)])
    partners = set()
    feed = feed_of(settings)
    for batch in batches(feed, settings, "sl"):
        inputs, prepare = feed.train["sl"].prepare(batch), feed.train["sl"].prepare
        scale, shift = prepare.own.std[:, None, None], prepare.own.mean[:, None, None]
        for row, one in enumerate(batch.ids):
            (other,) = np.flatnonzero((images == batch.partners[row].numpy()).all((1, 2, 3)))
            share = float(batch.mixup.share[row])
            mixed = torch.from_numpy(share * images[one] + (1 - share) * images[other]).permute(2, 0, 1) / 255
            torch.testing.assert_close(inputs.images[row] * scale + shift, mixed.float(), atol=1e-5, rtol=1e-5)
            assert (batch.labels[row], batch.mixup.labels[row]) == (labels[one], labels[other])
            partners.add(int(other))
    assert len(partners) > 15  # of 37 drawn with replacement, 23 are expected


def test_ssl_and_mix_are_as_they_were_without_mixup(sets):
    shared = {"data__ssl": sets / "plain", **NOT_AUGMENTED}
    off, on = config(sets / "partly", **shared), config(sets / "partly", train__mixup=0.3, **shared)
    for phase in ("ssl", "mix"):
        for one, other in zip(batches(feed_of(off), off, phase), batches(feed_of(on), on, phase), strict=True):
            assert other.mixup is None
            assert torch.equal(
                feed_of(off).train[phase].prepare(one).images, feed_of(on).train[phase].prepare(other).images
            )


@pytest.mark.parametrize("settings", [{"data__cache": "none"}, {"train__micro_batch": 2}])
def test_ranks_and_micro_batches_together_mix_what_one_process_mixes(sets, settings):
    def mixed(feeds, changed):
        found = {}
        for feed in feeds:
            for batch in batches(feed, changed, "sl", 1):
                inputs = feed.train["sl"].prepare(batch)
                for row, one in enumerate(batch.ids):
                    if batch.weight[row]:
                        found[int(one)] = (inputs.images[row].sum().item(), int(inputs.mixup.labels[row]))
        return found

    settings = config(sets / "whole", train__mixup=0.4, **settings)
    plain = config(sets / "whole", train__mixup=0.4)
    alone = mixed([feed_of(plain)], plain)
    assert sorted(alone) == list(range(37))
    spread = mixed([feed_of(settings, rank_of(rank, 3)) for rank in range(3)], settings)
    assert spread == {one: (pytest.approx(total, rel=1e-5, abs=1e-3), label) for one, (total, label) in alone.items()}


def test_a_stream_taken_up_in_an_epoch_mixes_as_if_never_left(sets):
    settings = config(sets / "whole", train__mixup=0.4)
    whole, later = (batches(feed_of(settings), settings, "sl", 1, first) for first in (0, 2))
    for one, other in zip(whole[2:], later, strict=True):
        for name in ("labels", "share"):
            assert torch.equal(getattr(one.mixup, name), getattr(other.mixup, name))
        assert torch.equal(one.partners, other.partners)


def test_a_partner_carries_the_label_that_noise_has_left_it(sets):
    settings = config(sets / "whole", train__mixup=1.0, data__label_noise=0.5, **NOT_AUGMENTED)
    clean = open_set(sets / "whole").split("train").labels
    noisy = noisy_labels(clean, 3, settings.data)
    images = np.stack([stored(sets / "whole", "train", one) for one in range(37)])
    seen = {}
    for batch in batches(feed_of(settings), settings, "sl"):
        for partner, label in zip(batch.partners, batch.mixup.labels, strict=True):
            (other,) = np.flatnonzero((images == partner.numpy()).all((1, 2, 3)))
            seen[int(other)] = int(label)
    assert all(noisy[one] == label for one, label in seen.items())
    assert any(clean[one] != label for one, label in seen.items())


@pytest.mark.parametrize("several", [False, True])
def test_the_first_rows_of_a_batch_are_prepared_as_they_are_in_it(sets, several):
    task = {"data__tasks": {"again": {"path": str(sets / "whole")}}}
    settings = config(sets / "whole", **(task if several else {"train__mixup": 0.5}))
    feed = feed_of(settings)
    batch, prepare = batches(feed, settings, "sl")[0], feed.train["sl"].prepare
    few, whole = prepare(first_rows(batch, 3)), prepare(batch)
    assert torch.equal(few.images, whole.images[:3])
    assert torch.equal(few.labels, whole.labels[:3])
    if few.mixup:
        assert torch.equal(few.mixup.labels, whole.mixup.labels[:3])
        assert torch.equal(few.mixup.share, whole.mixup.share[:3])


def test_the_loss_is_that_of_the_mixed_targets():
    logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, -1])
    mixup = Mixup(torch.tensor([3, 1, 0, 2, 1]), torch.tensor([0.9, 0.5, 0.0, 1.0, 0.3]))
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    share = mixup.share[:, None]
    targets = share * F.one_hot(labels.clamp(min=0), 4) + (1 - share) * F.one_hot(mixup.labels, 4)
    expected = F.cross_entropy(logits[[0, 2, 3]], targets[[0, 2, 3]], reduction="sum")
    found = classification_loss(logits, labels, weight, mixup)
    torch.testing.assert_close(found, expected)


def test_mixup_changes_the_sl_phase_of_a_run_and_no_other(tmp_path):
    data = tiny_set(tmp_path / "set")
    plain, mixed = (
        [
            (record.phase, record.loss_ssl, record.loss_sl)
            for record in make_trainer(tiny_config(data, tmp_path / name, {"train.mixup": mixup})).records()
        ]
        for name, mixup in (("plain", 0.0), ("mixed", 0.5))
    )
    assert [one for one in plain if one[0] != "sl"] == [one for one in mixed if one[0] != "sl"]
    assert all(one != other for one, other in zip(plain, mixed, strict=True) if one[0] == "sl")


def test_a_plan_without_an_sl_phase_says_that_mixup_has_nothing_to_act_on(tmp_path):
    data = tiny_set(tmp_path / "set")
    trainer = make_trainer(tiny_config(data, tmp_path / "run", {"train.mixup": 0.5, "method.mix_ratio": 1}))
    assert any(note.startswith("train.mixup has nothing to act on") for note in trainer.plan.notes)
