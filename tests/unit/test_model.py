"""One backbone pass, then the heads: the feature-masked MAE decoder, the autoencoder, and the timm families."""

import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import (
    FAMILIES,
    MORE_FAMILIES,
    family_config,
    family_model,
    make_trainer,
    make_updater,
    tiny_config,
    tiny_set,
    weights,
)
from torch import nn

from mixdist.config.method_section import ModelConfig
from mixdist.engine.update import loss_terms
from mixdist.errors import UserError
from mixdist.keyed import make_key, uniform
from mixdist.model.backbone import Backbone, build_backbone
from mixdist.model.heads import AeHead
from mixdist.model.hints import nearest_model
from mixdist.model.masking import random_mask, to_images
from mixdist.model.mixmodel import build_model

HEADS = {"ssl": {"reconstruct"}, "mix": {"reconstruct", "classify"}, "sl": {"classify"}}


@pytest.fixture(scope="module")
def set_of_8_px(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("model") / "set8")


@pytest.fixture(scope="module")
def set_of_32_px(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("model") / "set32", train=6, test=3, size=32)


def tiny_model(tmp_path, size=8, classes=3, **changes):
    return build_model(tiny_config(tmp_path, tmp_path, changes), size, classes)


# One pass


@pytest.mark.parametrize("phase", HEADS)
def test_an_update_passes_the_backbone_exactly_once_forward_and_once_backward(set_of_8_px, tmp_path, phase):
    trainer = make_trainer(tiny_config(set_of_8_px, tmp_path))
    update = make_updater(trainer, phase)
    calls = {"forward": 0, "backward": 0, "reconstruct": 0, "classify": 0}

    def count(what):
        return lambda *_: calls.update({what: calls[what] + 1})

    trainer.model.backbone.net.patch_embed.register_forward_hook(count("forward"))
    trainer.model.backbone.net.blocks[0].register_full_backward_hook(count("backward"))
    trainer.model.reconstructor.register_forward_hook(count("reconstruct"))
    trainer.model.classifier.register_forward_hook(count("classify"))
    batches = next(trainer.feed.train[phase].epoch(0, 2))
    update(batches, step=0)
    assert (calls["forward"], calls["backward"]) == (1, 1)
    assert {name for name in ("reconstruct", "classify") if calls[name]} == HEADS[phase]


def test_a_head_that_was_not_asked_for_gives_none(tmp_path):
    model = tiny_model(tmp_path)
    images, noise = torch.zeros(2, 3, 8, 8), torch.rand(2, 16)
    ssl = model(images, reconstruct=True, classify=False, noise=noise)
    sl = model(images, reconstruct=False, classify=True)
    assert ssl.logits is None
    assert (sl.reconstruction, sl.where) == (None, None)
    assert sl.logits.shape == (2, 3)
    assert (ssl.reconstruction.shape, ssl.where.shape) == ((2, 3, 8, 8), (2, 1, 8, 8))


# The mask


@settings(max_examples=200, deadline=None)
@given(patches=st.integers(2, 30).map(lambda side: side * side), percent=st.integers(1, 99))
def test_each_image_masks_exactly_l_minus_floor_of_the_rest(patches, percent):
    noise = torch.from_numpy(uniform(make_key(0, "test"), np.arange(3), patches))
    expected = patches - int(patches * (1 - Fraction(percent, 100)))
    assert random_mask(noise, percent / 100).sum(1).tolist() == [expected] * 3


def test_at_least_one_patch_is_masked_however_small_the_ratio():
    assert random_mask(torch.rand(2, 4), 1e-9).sum(1).tolist() == [1, 1]


def test_the_patches_with_the_largest_numbers_are_masked():
    noise = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]])
    assert random_mask(noise, 0.5).tolist() == [[False, True, False, True], [True, True, False, False]]


def test_the_mask_of_a_sample_depends_on_seed_epoch_and_sample_not_on_its_batch(set_of_8_px, tmp_path):
    def masks(seed, epoch, micro_batch):
        config = tiny_config(set_of_8_px, tmp_path, {"seed": seed, "train.micro_batch": micro_batch})
        trainer = make_trainer(config)
        update = make_updater(trainer, "mix")
        seen = {}
        handle = trainer.model.reconstructor.register_forward_hook(
            lambda _, arguments, result: seen.update({"where": result[1][:, 0].clone()})
        )
        found = {}
        for batches in trainer.feed.train["mix"].epoch(epoch, 2):
            for batch in batches:
                update([batch], step=0)
                rows = batch.weight.bool().tolist()
                found |= {
                    int(sample): mask
                    for sample, mask, counts in zip(batch.ids, seen["where"], rows, strict=True)
                    if counts
                }
        handle.remove()
        return found

    whole, cut = masks(0, 0, None), masks(0, 0, 3)
    assert sorted(whole) == sorted(cut) == list(range(11))
    assert all(torch.equal(whole[sample], cut[sample]) for sample in whole)
    assert len({tuple(mask.flatten().tolist()) for mask in whole.values()}) == 11
    for other in (masks(1, 0, None), masks(0, 1, None)):
        assert not all(torch.equal(whole[sample], other[sample]) for sample in whole)


# The MAE head


def test_to_images_lays_patches_out_in_raster_order_with_the_channels_innermost():
    # Four patches of 2 x 2 pixels; a value is patch, row, column and channel as four decimal digits.
    patch, row, column, channel = torch.meshgrid(
        torch.arange(4), torch.arange(2), torch.arange(2), torch.arange(3), indexing="ij"
    )
    patches = (1000 * patch + 100 * row + 10 * column + channel).reshape(1, 4, 12)
    image = to_images(patches, 2)
    assert image.shape == (1, 3, 4, 4)
    assert image[0, 0].tolist() == [
        [0, 10, 1000, 1010],
        [100, 110, 1100, 1110],
        [2000, 2010, 3000, 3010],
        [2100, 2110, 3100, 3110],
    ]
    assert image[0, 2, 3, 0] == 2102


def test_the_loss_reads_the_masked_patches_only(tmp_path):
    model = tiny_model(tmp_path)
    images, noise = torch.randn(2, 3, 8, 8), torch.rand(2, 16)
    outputs = model(images, reconstruct=True, classify=False, noise=noise)
    patchwise = F.max_pool2d(outputs.where.float(), 2)  # patch size 2
    assert patchwise.sum((1, 2, 3)).tolist() == [12, 12]  # 75 % of 16
    assert torch.equal(outputs.where.float(), F.interpolate(patchwise, scale_factor=2))
    inputs = SimpleNamespace(images=images, labels=None, weight=torch.ones(2))
    ssl, _ = loss_terms(outputs, inputs)
    (gradient,) = torch.autograd.grad(ssl, outputs.reconstruction)
    reached = (gradient != 0).all(1, keepdim=True)
    assert torch.equal(reached, outputs.where)


def test_as_targets_visible_pixels_have_no_influence_on_the_loss(tmp_path):
    model = tiny_model(tmp_path)
    images, noise = torch.randn(2, 3, 8, 8), torch.rand(2, 16)
    outputs = model(images, reconstruct=True, classify=False, noise=noise)

    def loss(targets):
        return loss_terms(outputs, SimpleNamespace(images=targets, labels=None, weight=torch.ones(2)))[0]

    assert torch.equal(loss(torch.where(outputs.where, images, 100.0)), loss(images))
    assert not torch.equal(loss(torch.where(outputs.where, 100.0, images)), loss(images))


def test_a_masked_patch_s_own_feature_has_no_influence_on_the_reconstruction(tmp_path):
    model = tiny_model(tmp_path)
    head, noise = model.reconstructor, torch.rand(1, 16)
    images = torch.randn(1, 3, 8, 8)
    features = model.backbone(images).detach()
    mask = random_mask(noise, head.mask_ratio)
    at_masked = torch.cat([torch.zeros(1, 1, dtype=torch.bool), mask], dim=1)[:, :, None]
    changed = torch.where(at_masked, torch.randn_like(features), features)
    assert torch.equal(head(changed, images, noise)[0], head(features, images, noise)[0])
    changed = torch.where(at_masked, features, torch.randn_like(features))
    assert not torch.equal(head(changed, images, noise)[0], head(features, images, noise)[0])


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_class_token_and_the_pooled_features_never_see_the_mask(tmp_path, pool):
    options = {"depth": 2, "embed_dim": 32, "num_heads": 2, "global_pool": pool}
    model = tiny_model(tmp_path, **{"model.options": options})
    images = torch.randn(2, 3, 8, 8)
    first, second = (
        model(images, reconstruct=True, classify=True, noise=torch.rand(2, 16, generator=torch.manual_seed(seed)))
        for seed in (0, 1)
    )
    alone = model(images, reconstruct=False, classify=True)
    assert not torch.equal(first.where, second.where)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.logits, alone.logits)


def test_prefix_tokens_are_never_masked(tmp_path):
    head = tiny_model(tmp_path).reconstructor
    seen = []
    head.blocks.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        head.position.zero_()
        head.mask_token.fill_(7.0)
        head(torch.zeros(1, 17, 32), torch.zeros(1, 3, 8, 8), torch.rand(1, 16))
    masked = (seen[0] == 7.0).all(-1)[0]
    assert not masked[0]
    assert masked[1:].sum() == 12


def test_decoder_heads_that_do_not_divide_the_width_are_refused_with_both_numbers(tmp_path):
    with pytest.raises(UserError, match=r"heads 3 does not divide model\.decoder_dim 32; use a decoder_dim of 33, or"):
        tiny_model(tmp_path, **{"model.decoder_heads": 3, "model.decoder_dim": 32})


@pytest.mark.parametrize(("heads", "asked", "width"), [(2, None, 32), (3, None, 48), (5, None, 40), (3, 33, 33)])
def test_the_decoder_is_as_wide_as_the_backbone_or_the_next_width_that_its_heads_divide(tmp_path, heads, asked, width):
    model = tiny_model(tmp_path, **{"model.decoder_heads": heads, "model.decoder_dim": asked})
    assert model.reconstructor.norm.weight.shape == (width,)


def test_a_single_token_is_refused_as_there_is_nothing_to_reconstruct_it_from(tmp_path):
    with pytest.raises(UserError, match=r"'vit_tiny_patch16_224' makes a single token of a 8 px image.*image_size"):
        tiny_model(tmp_path, **{"model.patch_size": 8})


def test_a_mask_that_hides_every_patch_is_refused_and_one_that_leaves_one_is_not(tmp_path):
    with pytest.raises(UserError, match=r"method.mask_ratio 0.95 hides all 16 patches.*use at most 0.9375"):
        tiny_model(tmp_path, **{"method.mask_ratio": 0.95})
    assert tiny_model(tmp_path, **{"method.mask_ratio": 0.9375}).reconstructor.visible(torch.rand(2, 16)).shape == (
        2,
        1,
    )


# The AE head


@pytest.mark.parametrize("size", [32, 33, 48, 50, 64])
def test_the_autoencoder_s_output_has_the_size_of_the_image_and_counts_every_pixel(size):
    model = family_model("resnet", size)
    images = torch.randn(2, 3, size, size)
    outputs = model(images, reconstruct=True, classify=False)
    assert isinstance(model.reconstructor, AeHead)
    assert outputs.reconstruction.shape == images.shape
    assert outputs.where.shape == (2, 1, size, size)
    assert outputs.where.all()


def test_every_pixel_of_the_autoencoder_is_learnt(tmp_path):
    model = family_model("resnet", 33)
    images = torch.randn(2, 3, 33, 33)
    outputs = model(images, reconstruct=True, classify=False)
    ssl, _ = loss_terms(outputs, SimpleNamespace(images=images, labels=None, weight=torch.ones(2)))
    (gradient,) = torch.autograd.grad(ssl, outputs.reconstruction)
    assert (gradient != 0).all()


# timm


@pytest.mark.parametrize("family", FAMILIES | MORE_FAMILIES)
def test_a_timm_family_trains_one_step_of_each_phase(set_of_32_px, tmp_path, family):
    trainer = make_trainer(family_config(family, set_of_32_px, tmp_path))
    before = weights(trainer)
    seen = []
    for record in trainer.records():
        after = weights(trainer)
        for group in HEADS[record.phase] | {"backbone"}:
            assert any(not torch.equal(before[name], after[name]) for name in trainer.groups[group]), (record, group)
        seen.append((record.phase, record.loss_ssl is None, record.loss_sl is None))
        before = after
    assert seen == [("ssl", False, True), ("mix", False, False), ("sl", True, False)]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("vit_tinny", "vit_tiny_patch16_224"),
        ("deit_tiny", "deit_tiny_patch16_224"),
        ("resnet", "resnet18"),
        ("resnt18", "resnet18"),
        ("convnxt_tiny", "convnext_tiny"),
    ],
)
def test_a_name_cut_short_or_mistyped_is_answered_with_a_model_of_its_family(given, meant):
    assert nearest_model(given) == f"; did you mean '{meant}'?"


def test_a_name_that_timm_does_not_know_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'resnet81' is not a model of timm .*; did you mean 'resnet\d+'\?"):
        build_backbone(ModelConfig(backbone="resnet81"), 32)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"options": {"dept": 2}},
            r"'vit_tiny_patch16_224' cannot be built with dept=2.*: .*dept'; it takes .*, num_heads, .*mean 'depth'\?$",
        ),
        ({"options": {"embed_dim": 50}}, "cannot be built with embed_dim=50, img_size=32: dim should be divisible"),
        ({"options": {"img_size": 64}}, "cannot be built with img_size=64: Input height"),
        ({"patch_size": 5}, r"model\.patch_size 5 does not divide the image size 32"),
        ({"backbone": "resnet18", "options": {"layers": [1]}}, r"'resnet18' cannot be built with layers=\[1\]"),
        ({"backbone": "coat_tiny"}, "'coat_tiny' gives 3 features of different scales, a list; mixdist needs one"),
        ({"backbone": "pit_ti_224"}, r"'pit_ti_224' gives features of shape \[2, 1, 256\] for 32 px images"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused_in_one_line(model, message):
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(ModelConfig(**model), 32)
    assert "\n" not in str(caught.value)
    assert re.match(r"model\.", str(caught.value))


@pytest.mark.parametrize("shape", [(7, 8), (8, 2, 4), (8,)])
def test_features_without_a_square_grid_are_refused_with_their_shape(shape):
    class Net(nn.Module):
        def forward_features(self, images):
            return torch.zeros(len(images), *shape)

        def forward_head(self, features, pre_logits):
            return torch.zeros(2, 8)

    shown = re.escape(str([2, *shape]))
    with pytest.raises(UserError, match=rf"'net' gives features of shape {shown} for 8 px images; .*square"):
        Backbone(Net(), 8, "net")


def test_a_class_token_that_a_model_does_not_declare_is_found_by_the_square_that_is_left():
    class Net(nn.Module):
        def forward_features(self, images):
            return torch.zeros(len(images), 17, 8)

        def forward_head(self, features, pre_logits):
            return features[:, 0]

    backbone = Backbone(Net(), 8, "net")
    assert (backbone.prefix, backbone.grid, backbone.dim, backbone.pooled_dim) == (1, 4, 8, 8)


def test_the_weights_depend_on_the_seed_alone(tmp_path):
    def build(seed):
        return tiny_model(tmp_path, seed=seed).state_dict()

    torch.manual_seed(1)
    first = build(7)
    torch.manual_seed(2)
    again, other = build(7), build(8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_building_a_model_leaves_the_global_random_numbers_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    tiny_model(tmp_path)
    assert torch.equal(torch.rand(4), expected)
