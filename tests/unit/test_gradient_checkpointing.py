"""Activations computed anew in the backward: the same run, bit by bit."""

import pytest
import torch
from tiny_run import ALONE, family_config, make_trainer, tiny_set, weights

from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.model.mixmodel import build_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("checkpointing") / "set", size=32)


def with_checkpointing(config: Config) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"gradient_checkpointing": True})})


@pytest.mark.parametrize(
    ("family", "options"),
    [("vit", {"drop_rate": 0.2, "drop_path_rate": 0.2}), ("swin", {"drop_path_rate": 0.2}), ("resnet", {})],
)
def test_losses_weights_and_running_statistics_are_the_same_bit_by_bit(data, tmp_path, family, options):
    ended = []
    for name, change in (("plain", lambda config: config), ("checkpointed", with_checkpointing)):
        run = make_trainer(change(family_config(family, data, tmp_path / name, **options)))
        ended.append(([(record.loss, record.grad_norm, record.accuracy) for record in run.records()], weights(run)))
    (losses, state), (other_losses, other_state) = ended
    assert losses == other_losses
    assert not [name for name in state if not torch.equal(state[name], other_state[name])]


def test_blocks_of_backbone_and_decoder_run_once_more_in_the_backward():
    calls = []
    config = with_checkpointing(family_config("vit"))
    model = build_model(config, 32, 3).to(ALONE.device)
    for name in ("backbone.net.blocks.1", "reconstructor.blocks.0"):
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    noise = torch.rand(2, model.reconstructor.noise_width)
    outputs = model(torch.randn(2, 3, 32, 32), reconstruct=True, classify=True, noise=noise)
    assert sorted(calls) == ["backbone.net.blocks.1", "reconstructor.blocks.0"]
    (outputs.reconstruction.sum() + outputs.logits.sum()).backward()
    assert sorted(calls) == 2 * ["backbone.net.blocks.1"] + 2 * ["reconstructor.blocks.0"]


def test_a_backbone_without_checkpointing_is_refused_by_name():
    config = with_checkpointing(Config.model_validate({"data": {"sl": "set"}, "model": {"backbone": "vgg11"}}))
    with pytest.raises(UserError, match=r"train\.gradient_checkpointing: timm's model\.backbone 'vgg11' has none"):
        build_model(config, 32, 3)
