"""The pictures of reconstructions: their rows, and what is shown where."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import family_config, make_trainer, seen, tiny_config, tiny_set

from mixdist.engine.snapshot import GAP, reconstruction_png
from mixdist.keyed import make_key, uniform
from mixdist.model.masking import random_mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("snapshot") / "set", test=10)


def cells(png, rows, size):
    """Cut the picture into its cells, each shrunk back: uint8 [rows, columns, size, size, 3]."""
    page = np.asarray(Image.open(io.BytesIO(png)))
    side = page.shape[0] // rows
    columns = page.shape[1] // side
    assert page.shape == (rows * side, columns * side, 3)
    cut = page.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)[:, :, GAP:-GAP, GAP:-GAP]
    factor = cut.shape[2] // size
    assert cut.shape[2] == factor * size >= 64
    assert np.array_equal(cut, cut[:, :, ::factor, ::factor].repeat(factor, 2).repeat(factor, 3))
    return cut[:, :, ::factor, ::factor]


def picture(run):
    return reconstruction_png(run.model, run.feed, run.precision)


def patches(mask, images):
    """Spread a mask bool [B, 16] over the pixels of 8 px images."""
    return mask.reshape(images, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()


def test_an_mae_picture_has_the_original_the_masked_and_the_reconstructed(data, tmp_path):
    run = make_trainer(tiny_config(data, tmp_path))
    original, masked, rebuilt = cells(picture(run), rows=3, size=8)
    ids = run.feed.test.ids[:8]
    stored = seen(run.feed.test.images, ids).numpy()
    assert original.shape == stored.shape == (8, 8, 8, 3)
    assert np.array_equal(original, stored)
    where = patches(random_mask(torch.from_numpy(uniform(make_key(0, "mask", 0), ids, 16)), 0.75), 8)
    assert (masked[where] == 128).all()
    assert np.array_equal(masked[~where], stored[~where])
    assert np.array_equal(rebuilt[~where], stored[~where])  # known patches as they are
    assert not np.array_equal(rebuilt[where], stored[where])


def test_what_is_shown_in_masked_patches_is_the_reconstruction_back_in_pixels(data, tmp_path):
    run = make_trainer(tiny_config(data, tmp_path))
    with torch.no_grad():
        run.model.reconstructor.predict.weight.zero_()
        run.model.reconstructor.predict.bias.zero_()  # predicts the mean of the set everywhere
    _, masked, rebuilt = cells(picture(run), rows=3, size=8)
    where = (masked == 128).all(-1)
    mean = (run.feed.test.prepare.own.mean * 255).round().numpy()
    assert np.abs(rebuilt[where].astype(int) - mean).max() <= 1


def test_an_ae_picture_has_the_original_and_the_reconstructed(tmp_path):
    data = tiny_set(tmp_path / "set", train=6, test=3, size=32)
    run = make_trainer(family_config("resnet", data, tmp_path / "run"))
    original, rebuilt = cells(picture(run), rows=2, size=32)
    assert len(original) == 3  # no more than the test split has
    assert np.array_equal(original, seen(run.feed.test.images, run.feed.test.ids).numpy())
    assert not np.array_equal(original, rebuilt)


def test_a_run_without_a_test_split_shows_training_images_without_augmentation(data, tmp_path):
    run = make_trainer(tiny_config(data, tmp_path, {"method.sl_epochs": 0}))
    assert run.feed.test is None
    original, _, _ = cells(picture(run), rows=3, size=8)
    stream = run.feed.train["ssl"]
    assert np.array_equal(original, seen(stream.images, stream.order.ids[:8]).numpy())


def test_the_picture_is_the_same_each_time_and_leaves_the_model_as_it_was(data, tmp_path):
    run = make_trainer(tiny_config(data, tmp_path))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert picture(run) == picture(run)
    assert run.model.training
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_bf16_reconstructions_are_shown_too(data, tmp_path):
    run = make_trainer(tiny_config(data, tmp_path, {"train.precision": "bf16"}))
    assert len(cells(picture(run), rows=3, size=8)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"train.eval_batch": 1},
        {"train.eval_batch": 1, "method.arm": "ssl+sl", "method.sl_epochs": 0, "train.micro_batch": 2},
    ],
    ids=["supervised", "ssl-alone"],
)
def test_a_picture_fits_into_the_workers_memory_whatever_the_batches_are(data, tmp_path, changes):
    decoded = make_trainer(tiny_config(data, tmp_path / "run", {**changes, "data.cache": "none", "data.workers": 2}))
    kept = make_trainer(tiny_config(data, tmp_path / "kept", {**changes, "data.cache": "ram"}))
    assert picture(decoded) == picture(kept)
