"""SSL that masks its input: only visible patches pass the backbone, the same parameters train, MIX is as it was."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import family_config, family_model, make_trainer, make_updater, phase_of, tiny_config, tiny_set, weights

from mixdist.engine.checkpoint import identity
from mixdist.engine.passes import INPUT, open_passes
from mixdist.engine.update import mask_noise
from mixdist.errors import UserError
from mixdist.model.masking import gather_patches, random_mask, scatter_patches, visible_patches
from mixdist.model.mixmodel import build_model
from mixdist.paper.pass_figures import summarise

INPUT_MASKED = {"method.ssl_masking": "input"}
AVERAGE = {"model.options": {"depth": 2, "embed_dim": 32, "num_heads": 2, "global_pool": "avg"}}
REFUSED = {
    "resnet": "gives a feature map, whose convolutions or windows need every place",
    "swin": "gives a feature map, whose convolutions or windows need every place",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("input-masking") / "set")


def noise_and_images(rows=5, patches=16, size=8):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(rows, patches, generator=generator), torch.randn(rows, 3, size, size, generator=generator)


def tiny_model(changes=None):
    return build_model(tiny_config(Path("set"), Path("run"), {**INPUT_MASKED, **(changes or {})}), 8, 3)


@given(st.integers(1, 6), st.integers(2, 30), st.sampled_from([0.25, 0.5, 0.75, 0.9]), st.integers(0, 99))
def test_visible_patches_are_those_that_the_mask_leaves_and_go_back_to_their_places(rows, patches, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    noise, values = torch.rand(rows, patches, generator=generator), torch.rand(rows, patches, 3, generator=generator)
    mask, places = random_mask(noise, ratio), visible_patches(noise, ratio)
    assert places.shape[1] == int((~mask[0]).sum())
    back = scatter_patches(gather_patches(values, places), places, torch.full((1, 1, 3), -1.0), patches)
    assert torch.equal(back, torch.where(mask[:, :, None], -1.0, values))


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_with_all_patches_visible_the_backbone_is_timms_own_forward(family):
    backbone = family_model(family).backbone.eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    places = torch.arange(backbone.grid**2).expand(3, -1)
    torch.testing.assert_close(backbone(images, places), backbone(images))


def test_the_backbones_blocks_see_the_prefix_and_the_visible_patches_alone():
    model, seen = tiny_model(), []
    model.backbone.net.blocks[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    noise, images = noise_and_images()
    model(images, reconstruct=True, classify=False, noise=noise, mask_input=True)
    assert seen == [(5, 1 + 4, 32)]  # a class token, and a quarter of 16 patches


def test_no_pixel_of_a_masked_patch_moves_the_reconstruction_and_visible_ones_do():
    model = tiny_model().eval()
    noise, images = noise_and_images()
    outputs = model(images, reconstruct=True, classify=False, noise=noise, mask_input=True)
    expected, where = outputs.reconstruction, outputs.where
    other = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))

    def rebuilt(images, mask_input=True):
        return model(images, reconstruct=True, classify=False, noise=noise, mask_input=mask_input).reconstruction

    assert torch.equal(rebuilt(torch.where(where, other, images)), expected)
    assert not torch.allclose(rebuilt(torch.where(where, images, other)), expected)
    assert not torch.equal(rebuilt(torch.where(where, other, images), mask_input=False), rebuilt(images, False))


def test_both_maskings_hide_the_same_patches():
    model = tiny_model()
    noise, images = noise_and_images()
    both = [
        model(images, reconstruct=True, classify=False, noise=noise, mask_input=mask_input).where
        for mask_input in (False, True)
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize("changes", [{}, AVERAGE])
def test_every_parameter_of_b_and_r_has_a_gradient_and_c_has_none(data, tmp_path, changes):
    # DDP looks for no unused parameters: one without a gradient would let it wait for ever.
    trainer = make_trainer(tiny_config(data, tmp_path / "run", {**INPUT_MASKED, **changes}))
    trainer.updater(phase_of(trainer, "ssl"))
    noise, images = noise_and_images()
    outputs = trainer.model(images, reconstruct=True, classify=False, noise=noise, mask_input=True)
    outputs.reconstruction.square().mean().backward()
    having = {name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    assert having == set(trainer.groups["backbone"]) | set(trainer.groups["reconstruct"])


def test_only_the_ssl_phase_masks_its_input(data, tmp_path):
    trainer = make_trainer(tiny_config(data, tmp_path / "run", INPUT_MASKED))
    assert {name: make_updater(trainer, name).mask_input for name in ("ssl", "mix", "sl")} == {
        "ssl": True,
        "mix": False,
        "sl": False,
    }
    off = make_trainer(tiny_config(data, tmp_path / "off"))
    assert not make_updater(off, "ssl").mask_input


def test_the_loss_is_that_of_the_keyed_mask_and_a_run_crosses_all_borders(data, tmp_path):
    trainer = make_trainer(tiny_config(data, tmp_path / "run", INPUT_MASKED))
    stream = trainer.feed.train["ssl"]
    (batch,) = next(stream.epoch(0, 2))
    inputs = stream.prepare(batch)
    noise = mask_noise(trainer.config.seed, batch, 16, trainer.world.device)
    with torch.no_grad():
        outputs = trainer.model(inputs.images, reconstruct=True, classify=False, noise=noise, mask_input=True)
    where = outputs.where.expand_as(inputs.images)
    expected = (outputs.reconstruction - inputs.images)[where].square().mean()
    records = list(trainer.records())
    assert records[0].loss == pytest.approx(float(expected), rel=1e-5)
    assert [record.phase for record in records] == ["ssl"] * 2 + ["mix"] * 2 + ["sl"] * 2
    feature = list(make_trainer(tiny_config(data, tmp_path / "feature")).records())
    assert feature[0].loss != records[0].loss


@pytest.mark.parametrize("changes", [{"train.micro_batch": 3}, {"train.gradient_checkpointing": True}])
def test_accumulated_or_checkpointed_it_is_the_same_training(data, tmp_path, changes):
    ends = []
    for name, more in (("plain", {}), ("other", changes)):
        trainer = make_trainer(tiny_config(data, tmp_path / name, {**INPUT_MASKED, **more}))
        ends.append([record.loss for record in trainer.records()])
    assert ends[1] == pytest.approx(ends[0], rel=1e-5)


@pytest.mark.parametrize("family", REFUSED)
def test_a_backbone_that_needs_every_place_is_refused_with_the_reason(family):
    config = family_config(family)
    config = config.model_copy(update={"method": config.method.model_copy(update={"ssl_masking": "input"})})
    with pytest.raises(UserError, match=f"ssl_masking input: model.backbone '.*' {REFUSED[family]}; use feature"):
        build_model(config, 32, 3)


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("eva02_tiny_patch14_224", "is a Eva, whose forward is not the plain one of blocks over patches and positions"),
        ("vit_tiny_r_s16_p8_224", "has a HybridEmbed in front, in which visible patches see masked ones"),
    ],
)
def test_token_models_of_another_kind_are_refused_with_the_reason(backbone, reason):
    small = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    changes = {**INPUT_MASKED, "model.backbone": backbone, "model.options": small, "model.patch_size": None}
    with pytest.raises(UserError, match=reason):
        build_model(tiny_config(Path("set"), Path("run"), changes), 224, 3)


def test_the_setting_is_part_of_a_runs_identity_and_its_default_is_what_runs_were_before():
    default, other = (identity(tiny_config(Path("set"), Path("run"), changes), {}) for changes in ({}, INPUT_MASKED))
    assert "method.ssl_masking" not in default
    assert other == default | {"method.ssl_masking": "input"}


def test_pictures_are_masked_where_the_last_training_of_r_masked(data, tmp_path):
    seen = []
    for arm, epochs in (("ssl+sl", [None]), ("mixtraining", [None, 1, 2])):  # of the latter, SSL has the first epoch
        trainer = make_trainer(tiny_config(data, tmp_path / arm, {**INPUT_MASKED, "method.arm": arm}))
        trainer.model.reconstructor.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
        for epoch in epochs:
            trainer.reconstructed(trainer.model, epoch)
    visible, all_patches = 1 + 4, 1 + 16
    assert seen == [visible, all_patches, visible, all_patches]


def test_pass_timing_has_both_kinds_of_ssl_pass(data, tmp_path):
    trainer = make_trainer(tiny_config(data, tmp_path / "run", INPUT_MASKED))
    with ExitStack() as held:
        passes = {each.name: each for each in open_passes(trainer, held)}
        assert list(passes) == ["ssl", INPUT, "mix", "sl"]
        flops = {name: each.flops() for name, each in passes.items()}
        before = weights(trainer)
        passes[INPUT].seconds(1)
        assert any(not torch.equal(value, before[name]) for name, value in weights(trainer).items())
    assert flops[INPUT] < 0.8 * flops["ssl"]
    found = summarise([{"ssl": 4.0, INPUT: 1.0, "sl": 3.0, "mix": 4.0}], flops)
    assert found["ratio_to_input_masked"]["measured"] == 1.0
    assert found["input_masked_to_ssl"]["measured"] == 0.25
    assert found["pass_s"][INPUT] == 1.0
