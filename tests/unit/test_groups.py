"""Which parameters B, R and C are: found by the gradient, whatever a timm model holds."""

import pytest
import torch
from tiny_run import FAMILIES, family_model

from mixdist.model.groups import parameter_groups, without_decay


def test_a_vit_with_a_class_token_has_all_of_timm_s_model_in_b_and_a_linear_c():
    model = family_model("vit")
    groups = parameter_groups(model)
    names = [name for name, _ in model.named_parameters()]
    assert groups["backbone"] == [name for name in names if name.startswith("backbone.")]
    assert groups["reconstruct"] == [name for name in names if name.startswith("reconstructor.")]
    assert groups["classify"] == ["classifier.weight", "classifier.bias"]


def test_fc_norm_behind_a_mean_pool_belongs_to_c():
    groups = parameter_groups(family_model("vit", global_pool="avg"))
    behind = ["backbone.net.fc_norm.weight", "backbone.net.fc_norm.bias"]
    assert groups["classify"] == [*behind, "classifier.weight", "classifier.bias"]
    assert not set(behind) & set(groups["backbone"])


def test_a_class_token_that_only_the_decoder_reads_moves_b_from_both_sides():
    groups = parameter_groups(family_model("vit"))
    assert "backbone.net.cls_token" in groups["backbone"]


def test_mobilenet_s_last_convolution_behind_the_pool_belongs_to_c():
    groups = parameter_groups(family_model("mobilenetv3"))
    assert {"backbone.net.conv_head.weight", "backbone.net.conv_head.bias"} <= set(groups["classify"])
    assert "backbone.net.conv_stem.weight" in groups["backbone"]


def test_a_model_that_keeps_what_it_computed_in_evaluation_is_probed_twice():
    model = family_model("efficientvit")
    assert parameter_groups(model) == parameter_groups(model)
    assert model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_is_in_one_group_and_each_group_has_some(family):
    model = family_model(family)
    groups = parameter_groups(model)
    names = [name for group in groups.values() for name in group]
    assert all(groups.values())
    assert len(names) == len(set(names))
    assert set(names) == {name for name, _ in model.named_parameters()}


def test_parameters_that_the_model_keeps_frozen_are_in_no_group():
    model = family_model("vit")
    model.backbone.net.pos_embed.requires_grad_(False)
    groups = parameter_groups(model)
    assert not any("backbone.net.pos_embed" in names for names in groups.values())


@pytest.mark.parametrize("training", [True, False])
def test_the_probe_leaves_batch_norm_gradients_and_the_mode_as_they_were(training):
    model = family_model("resnet").train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameter_groups(model)
    assert model.training is training
    assert model.backbone.net.bn1.training is training
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_the_probe_runs_on_the_device_of_the_model(family):
    model = family_model(family)
    expected = parameter_groups(model)
    assert parameter_groups(model.to("meta")) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_and_filters_decay_and_vectors_embeddings_and_tokens_do_not(family):
    model = family_model(family)
    kept = without_decay(model)
    embeddings = ("pos_embed", "cls_token", "dist_token", "mask_token", "position", "relative_position_bias_table")
    for name, value in model.named_parameters():
        assert (name in kept) == (value.ndim == 1 or name.endswith(embeddings)), name
