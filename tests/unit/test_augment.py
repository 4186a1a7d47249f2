"""Augmentation: held against torchvision and plain slicing, in range, and keyed by the sample alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import pixels
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mixdist.data.augment import ATTEMPTS, DRAWS, augment, crop_boxes, crop_by_kernel, crop_by_products, normalise
from mixdist.data.batch import Batch, Preparation, Statistics
from mixdist.keyed import make_key, uniform

torch.set_num_threads(1)  # tensors this small only lose by threads, as in tiny_run.py

KINDS = ["crop-flip", "crop", "resized-crop-flip", "flip", "none"]
SEED = st.integers(0, 2**31 - 1)
SIZE = st.integers(4, 40)


def images_of(size: int, count: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.stack([pixels(f"{row}", size, size) for row in range(count)]))


def draws_of(seed: int, count: int = 6) -> torch.Tensor:
    return torch.from_numpy(uniform(make_key(seed, "test"), np.arange(count), DRAWS))


# Against other people's code


@settings(max_examples=50)
@given(SIZE, SEED)
def test_the_resized_crop_is_that_of_torchvision(size, seed):
    images, draws = images_of(size), draws_of(seed)
    found = augment(images, draws, "resized-crop-flip")
    boxes = torch.stack(crop_boxes(draws, size), 1).tolist()
    for image, box, flip, ours in zip(images, boxes, (draws[:, 0] < 0.5).tolist(), found, strict=True):
        theirs = tv.resized_crop(image.permute(2, 0, 1), *box, [size, size], InterpolationMode.BICUBIC, antialias=True)
        theirs = tv.horizontal_flip(theirs) if flip else theirs
        assert torch.equal(ours.permute(2, 0, 1), theirs)


@settings(max_examples=50)
@given(SIZE, SEED)
def test_the_products_of_a_gpu_crop_as_the_kernel_does_to_two_grey_levels(size, seed):
    images, draws = images_of(size), draws_of(seed)
    flip = draws[:, 0] < 0.5
    apart = (crop_by_products(images, draws, flip).int() - crop_by_kernel(images, draws, flip).int()).abs()
    assert apart.max() <= 2
    assert apart.float().mean() < 0.05


@pytest.mark.parametrize("kind", ["crop-flip", "crop"])
@settings(max_examples=50)
@given(size=st.integers(8, 40), seed=SEED)
def test_the_shifted_crop_is_padding_and_slicing_and_only_crop_flip_mirrors(kind, size, seed):
    images, draws = images_of(size), draws_of(seed)
    padding = size // 8
    found = augment(images, draws, kind).numpy()
    for image, numbers, ours in zip(images.numpy(), draws.numpy(), found, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        top, left = (int(number * (2 * padding + 1)) for number in numbers[1:3])
        cut = padded[top : top + size, left : left + size]
        np.testing.assert_array_equal(ours, cut[:, ::-1] if kind == "crop-flip" and numbers[0] < 0.5 else cut)


@settings(max_examples=50)
@given(SIZE, SEED)
def test_flip_mirrors_the_columns_of_half_of_the_images_and_none_changes_nothing(size, seed):
    images, draws = images_of(size), draws_of(seed)
    expected = torch.where((draws[:, 0] < 0.5)[:, None, None, None], images.flip(2), images)
    assert torch.equal(augment(images, draws, "flip"), expected)
    assert torch.equal(augment(images, draws, "none"), images)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_images_of_the_same_shape_and_leaves_the_input_alone(kind):
    images = images_of(16)
    before = images.clone()
    found = augment(images, draws_of(0), kind)
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)


# Ranges


def test_a_shift_reaches_both_ends_and_each_is_as_frequent():
    # One white pixel in the middle of 32 x 32: where it lands tells the shift, 9 places in each direction.
    image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    image[0, 16, 16] = 255
    draws = draws_of(0, 9000)
    draws[:, 0] = 0.9  # no flip
    found = augment(image.expand(9000, -1, -1, -1), draws, "crop-flip")[..., 0]
    rows, columns = (found.amax(dim).argmax(1) for dim in (2, 1))
    for places in (rows, columns):
        counts = torch.bincount(places - 12, minlength=9)
        assert len(counts) == 9
        assert (counts - 1000).abs().max() < 5 * 30


@settings(max_examples=50)
@given(st.integers(8, 64), SEED)
def test_a_crop_lies_in_the_image_and_keeps_scale_and_ratio(size, seed):
    top, left, height, width = crop_boxes(draws_of(seed, 200), size)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size).all()
    assert (left + width <= size).all()
    # Rounding a side moves it by half a pixel, so the bounds hold for some rectangle within half a pixel.
    h, w = height.double(), width.double()
    assert ((h + 0.5) * (w + 0.5) >= 0.2 * size * size).all()
    assert ((w + 0.5) / (h - 0.5) >= 3 / 4).all()
    assert ((w - 0.5) / (h + 0.5) <= 4 / 3).all()


def test_crops_cover_the_whole_range_of_areas_ratios_and_places():
    top, left, height, width = crop_boxes(draws_of(1, 20_000), 64)
    area, ratio = height * width / 64**2, torch.log(width / height)
    assert area.min() < 0.21
    assert area.max() > 0.97
    assert abs(float(ratio.mean())) < 0.01  # the ratio is drawn in the logarithm, so it leans to no side
    assert float(ratio.max()) == pytest.approx(math.log(4 / 3), abs=0.05)
    assert float(ratio.min()) == pytest.approx(math.log(3 / 4), abs=0.05)
    for start, length in ((top, height), (left, width)):
        place = start[length < 64] / (64 - length[length < 64])
        assert (place.min(), place.max()) == (0, 1)
        assert float(place.mean()) == pytest.approx(0.5, abs=0.01)


def attempts(*pairs: tuple[float, float]) -> torch.Tensor:
    """Return the draws of one image whose attempts are (area, ratio); those not given do not fit."""
    draws = torch.zeros(1, DRAWS)
    draws[0, 3:] = torch.tensor([*pairs, *[(1.0, 1.0)] * (ATTEMPTS - len(pairs))]).flatten()
    return draws


def test_where_no_attempt_fits_the_whole_image_is_taken():
    # The full area at a ratio of 4/3 is wider than the image.
    assert [int(side) for side in crop_boxes(attempts(), 32)] == [0, 0, 32, 32]
    image = images_of(32, 1)
    draws = attempts()
    draws[0, 0] = 0.9  # no flip
    torch.testing.assert_close(augment(image, draws, "resized-crop-flip"), image, atol=0, rtol=0)


def test_the_first_attempt_that_fits_is_taken():
    _, _, height, width = crop_boxes(attempts((1.0, 0.0), (0.0, 0.5), (0.5, 0.5)), 100)
    assert (int(height), int(width)) == (45, 45)  # the second: 0.2 of the area, a square of sqrt(0.2) * 100


# Keyed by the sample


def preparation(kind: str, seed: int = 0) -> Preparation:
    statistics = Statistics.of((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), torch.device("cpu"))
    return Preparation(seed=seed, augmentation=kind, own=statistics, partner=statistics, input_ratio=0.5)


def view(images: torch.Tensor, ids: list[int], epoch: int = 0, kind: str = "crop-flip", seed: int = 0) -> torch.Tensor:
    count = len(ids)
    batch = Batch(images, torch.zeros(count, dtype=torch.int64), torch.ones(count), np.array(ids), epoch)
    return preparation(kind, seed)(batch).images


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_gets_the_same_view_in_whatever_batch_it_comes(kind):
    images, ids = images_of(32), [4, 90, 17, 3, 5, 6]
    together = view(images, ids, kind=kind)
    order = [5, 2, 0]
    others = view(images[order], [ids[row] for row in order], kind=kind)
    torch.testing.assert_close(others, together[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["crop-flip", "resized-crop-flip"])
def test_another_epoch_seed_or_sample_gets_another_view(kind):
    one = images_of(32, 1).expand(6, -1, -1, -1)
    base = view(one, [0, 1, 2, 3, 4, 5], kind=kind)
    assert all(not torch.allclose(base[row], base[other]) for row in range(6) for other in range(row))
    assert not torch.allclose(base, view(one, [0, 1, 2, 3, 4, 5], epoch=1, kind=kind))
    assert not torch.allclose(base, view(one, [0, 1, 2, 3, 4, 5], seed=1, kind=kind))


def test_evaluation_sees_the_image_itself_normalised():
    images = images_of(8)
    expected = (images.double() / 255 - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.25, 0.3])
    found = view(images, [0, 1, 2, 3, 4, 5], kind="none")
    torch.testing.assert_close(found.double(), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)


def test_normalised_images_are_channels_last_in_memory():
    found = normalise(images_of(8), torch.zeros(3), torch.ones(3))
    assert found.shape == (6, 3, 8, 8)
    assert found.is_contiguous(memory_format=torch.channels_last)
