"""The losses: sums whose parts add up, and Eq. 3."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mixdist.data.mixing import Mixup
from mixdist.objectives import classification_loss, joint_loss, reconstruction_loss


def made_up(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 4, 4, generator=generator)
    reconstruction = torch.randn(rows, 3, 4, 4, generator=generator)
    where = torch.rand(rows, 1, 4, 4, generator=generator) < 0.5
    where[:, :, 0, 0] = True
    logits = torch.randn(rows, 5, generator=generator)
    labels = torch.randint(0, 5, (rows,), generator=generator)
    return reconstruction, images, where, logits, labels


def test_the_reconstruction_loss_is_the_plain_mean_over_pixels_and_channels_that_count():
    reconstruction, images, _, _, _ = made_up(6)
    where = torch.zeros(6, 1, 4, 4, dtype=torch.bool)
    where[:, :, :2] = True
    loss = reconstruction_loss(reconstruction, images, where, torch.ones(6))
    torch.testing.assert_close(loss / 6, F.mse_loss(reconstruction[:, :, :2], images[:, :, :2]))


def test_each_image_weighs_the_same_in_the_reconstruction_loss_however_many_of_its_pixels_count():
    reconstruction, images, where, _, _ = made_up(4)
    loss = reconstruction_loss(reconstruction, images, where, torch.ones(4))
    each = [
        F.mse_loss(rebuilt[:, mask[0]], image[:, mask[0]])
        for rebuilt, image, mask in zip(reconstruction, images, where, strict=True)
    ]
    torch.testing.assert_close(loss / 4, torch.stack(each).mean())


def test_the_classification_loss_is_the_plain_cross_entropy():
    *_, logits, labels = made_up(6)
    loss = classification_loss(logits, labels, torch.ones(6))
    torch.testing.assert_close(loss / 6, F.cross_entropy(logits, labels))


def test_losses_of_half_precision_outputs_are_computed_in_float32():
    reconstruction, images, where, logits, labels = made_up(3)
    ssl = reconstruction_loss(reconstruction.bfloat16(), images, where, torch.ones(3))
    sl = classification_loss(logits.half(), labels, torch.ones(3))
    assert {ssl.dtype, sl.dtype} == {torch.float32}
    exact = classification_loss(logits.half().float(), labels, torch.ones(3))
    assert torch.equal(sl, exact)


def test_unlabelled_rows_add_nothing_to_the_classification_loss_or_its_gradient():
    *_, logits, labels = made_up(5)
    logits.requires_grad_()
    labels[[1, 4]] = -1
    loss = classification_loss(logits, labels, torch.ones(5))
    kept = classification_loss(logits[[0, 2, 3]], labels[[0, 2, 3]], torch.ones(3))
    torch.testing.assert_close(loss, kept)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[[1, 4]].any()
    assert gradient[[0, 2, 3]].all()


def test_an_unlabelled_image_has_no_part_in_mixup_whatever_its_partner_is():
    *_, logits, labels = made_up(4)
    labels[2] = -1
    second, share, kept = torch.tensor([0, 1, 2, 1]), torch.tensor([0.3, 0.9, 0.5, 0.6]), [0, 1, 3]
    found = classification_loss(logits, labels, torch.ones(4), Mixup(second, share))
    wanted = classification_loss(logits[kept], labels[kept], torch.ones(3), Mixup(second[kept], share[kept]))
    torch.testing.assert_close(found, wanted)


def test_rows_of_weight_0_add_nothing_to_either_loss_or_gradient():
    reconstruction, images, where, logits, labels = made_up(4)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0])
    reconstruction.requires_grad_()
    logits.requires_grad_()
    ssl, sl = reconstruction_loss(reconstruction, images, where, weight), classification_loss(logits, labels, weight)
    for loss, output in ((ssl, reconstruction), (sl, logits)):
        (gradient,) = torch.autograd.grad(loss, output)
        assert not gradient[[1, 3]].any()
        assert gradient[[0, 2]].any()


def test_a_batch_without_labels_gives_a_zero_loss_and_a_zero_gradient_not_nan():
    *_, logits, _ = made_up(3)
    logits.requires_grad_()
    loss = joint_loss(None, classification_loss(logits, torch.full((3,), -1), torch.ones(3)), 0.0, 3.0, 0.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_eq_3_weighs_the_ssl_loss_by_alpha_and_the_sl_loss_by_the_rest(alpha):
    ssl, sl = torch.tensor(6.0), torch.tensor(20.0)
    assert joint_loss(ssl, sl, alpha, 3.0, 4.0).item() == alpha * 2 + (1 - alpha) * 5


@given(alpha=st.floats(0, 1), images=st.integers(0, 5000), labelled=st.integers(0, 5000))
def test_counts_on_the_device_give_the_loss_that_counts_on_the_host_give(alpha, images, labelled):
    ssl, sl = torch.tensor(6.5), torch.tensor(20.25)
    on_device = joint_loss(ssl, sl, alpha, *torch.tensor([images, labelled]).float())
    torch.testing.assert_close(joint_loss(ssl, sl, alpha, float(images), float(labelled)), on_device)


def test_a_phase_with_one_head_has_that_loss_alone():
    assert joint_loss(torch.tensor(6.0), None, 1.0, 3.0, 0.0) == 2
    assert joint_loss(None, torch.tensor(6.0), 0.0, 0.0, 3.0) == 2


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 8), max_size=8),
    unlabelled=st.sets(st.integers(0, 8)),
    filling=st.sets(st.integers(0, 8)),
    alpha=st.floats(0, 1),
)
def test_the_parts_of_all_micro_batches_add_up_to_the_loss_of_the_whole_batch(cuts, unlabelled, filling, alpha):
    reconstruction, images, where, logits, labels = made_up(9)
    labels[list(unlabelled)] = -1
    weight = torch.ones(9)
    weight[list(filling)] = 0
    counts = float(weight.sum()), float(weight[labels >= 0].sum())

    def loss(rows):
        ssl = reconstruction_loss(reconstruction[rows], images[rows], where[rows], weight[rows])
        return joint_loss(ssl, classification_loss(logits[rows], labels[rows], weight[rows]), alpha, *counts)

    edges = [0, *sorted(cuts), 9]
    parts = [loss(slice(start, end)) for start, end in pairwise(edges)]
    torch.testing.assert_close(torch.stack(parts).sum(), loss(slice(0, 9)), atol=1e-5, rtol=1e-5)
