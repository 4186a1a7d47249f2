"""Cosines between the objectives' gradients: of which layer and losses, where they are due, and at no one's cost."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import ALONE, family_config, family_model, make_trainer, phase_of, tiny_config, tiny_set, weights

from mixdist.engine import window as window_module
from mixdist.engine.alignment import cosines, last_layer
from mixdist.engine.update import loss_terms, mask_noise
from mixdist.engine.window import Window
from mixdist.errors import UserError
from mixdist.model.groups import parameter_groups
from mixdist.model.mixmodel import MixModel

DROPPING = {
    "model.options": {"depth": 2, "embed_dim": 32, "num_heads": 2, "drop_path_rate": 0.2, "proj_drop_rate": 0.1}
}
LAST = {
    "vit": ["backbone.net.blocks.1.mlp.fc2.weight", "backbone.net.blocks.1.mlp.fc2.bias"],
    "swin": ["backbone.net.layers.1.blocks.0.mlp.fc2.weight", "backbone.net.layers.1.blocks.0.mlp.fc2.bias"],
    "convnext": ["backbone.net.stages.3.blocks.0.mlp.fc2.weight", "backbone.net.stages.3.blocks.0.mlp.fc2.bias"],
    "mobilenetv3": ["backbone.net.blocks.5.0.conv.weight"],  # its head's convolution is behind the pool: C's
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("alignment") / "set")


def trained(config):
    """Train a run; return its trainer and its records."""
    trainer = make_trainer(config)
    return trainer, list(trainer.records())


def found_by(trainer, name="mix", step=0):
    """Measure the cosines of the first batches of a phase."""
    phase = phase_of(trainer, name)
    update = trainer.updater(phase)
    batches = next(trainer.feed.train[name].epoch(phase.first_epoch, phase.steps_per_epoch))
    return trainer.alignment(update, batches, step)


def gradients_by_hand(trainer):
    """Compute the gradients of both losses on the first batch of MIX, as means over its images, with plain autograd."""
    phase = phase_of(trainer, "mix")
    trainer.updater(phase)
    stream = trainer.feed.train["mix"]
    (batch,) = next(stream.epoch(phase.first_epoch, 1))
    noise = mask_noise(trainer.config.seed, batch, trainer.model.reconstructor.noise_width, ALONE.device)
    inputs = stream.prepare(batch)
    outputs = trainer.model.train()(inputs.images, reconstruct=True, classify=True, noise=noise)
    layer = [trainer.model.get_parameter(name) for name in trainer.alignment.layer]
    return [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss / count, layer, retain_graph=True)])
        for loss, count in zip(loss_terms(outputs, inputs), batch.counts, strict=True)
    ]


@given(st.floats(0, 1))
def test_cosines_are_those_of_the_two_gradients_and_of_their_mixture(alpha):
    first, second = torch.tensor([2.0, 0.0, 0.0]).double(), torch.tensor([0.0, 1.0, 0.0]).double()
    mixed = math.hypot(2 * alpha, 1 - alpha)
    assert cosines(first, second, alpha).tolist() == pytest.approx([0.0, 2 * alpha / mixed, (1 - alpha) / mixed])
    assert cosines(1e-9 * first, 1e-9 * first, alpha).tolist() == pytest.approx([1, 1, 1])  # however small
    assert cosines(first, -first, 0.75).tolist() == pytest.approx([-1, 1, -1])


@pytest.mark.parametrize("family", LAST)
def test_the_last_layer_is_the_linear_layer_or_convolution_that_runs_last_in_b(family):
    model = family_model(family)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert last_layer(model, parameter_groups(model)["backbone"]) == LAST[family]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_a_backbone_without_such_a_layer_is_refused():
    with pytest.raises(UserError, match=r"train\.align_every: the backbone runs no linear layer and no convolution"):
        last_layer(family_model("vit"), backbone=[])


def test_the_cosines_are_those_of_autograd_on_the_global_batch_however_it_is_cut(data, tmp_path):
    changes = {"train.align_every": 1, "method.loss_ratio": 0.3}
    trainer = make_trainer(tiny_config(data, tmp_path / "whole", changes))
    ssl, sl = gradients_by_hand(trainer)
    expected = cosines(ssl.double(), sl.double(), 0.3)
    assert found_by(trainer).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    cut = make_trainer(tiny_config(data, tmp_path / "cut", {**changes, "train.micro_batch": 3}))
    assert found_by(cut).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert 0.01 < abs(expected[0]) < 0.99  # a comparison that means something


def test_the_mixture_follows_an_annealed_alpha(data, tmp_path):
    changes = {"train.align_every": 1, "method.loss_ratio_schedule": "linear"}
    trainer = make_trainer(tiny_config(data, tmp_path / "run", changes))
    ssl, sl = gradients_by_hand(trainer)
    phase = phase_of(trainer, "mix")
    expected = [cosines(ssl.double(), sl.double(), phase.alpha.at(step, phase.steps)) for step in (0, 1)]
    assert expected[0][1] > expected[1][1] + 0.01
    found = [found_by(trainer, step=step) for step in (0, 1)]
    assert torch.stack(found).flatten().tolist() == pytest.approx(torch.stack(expected).flatten().tolist(), abs=1e-5)


def test_they_are_measured_every_so_many_steps_where_both_heads_are_trained(data, tmp_path):
    _, records = trained(tiny_config(data, tmp_path / "run", {"train.align_every": 3}))
    measured = [(record.step, record.phase) for record in records if record.cos_ssl_sl is not None]
    assert [record.phase for record in records] == ["ssl"] * 2 + ["mix"] * 2 + ["sl"] * 2
    assert measured == [(3, "mix"), (6, "sl")]
    for record in records:
        known = [record.cos_ssl_sl, record.cos_ssl_mix, record.cos_sl_mix]
        assert all(value is None for value in known) or all(-1 <= value <= 1 for value in known)
    _, alone = trained(tiny_config(data, tmp_path / "alone", {"train.align_every": 1, "method.arm": "sl"}))
    assert all(record.cos_ssl_sl is None for record in alone)  # R was never trained


@pytest.mark.parametrize("changes", [DROPPING, {"train.ema_decay": 0.9}, {"train.gradient_checkpointing": True}])
def test_training_is_bit_by_bit_what_it_is_without(data, tmp_path, changes):
    without, plain = trained(tiny_config(data, tmp_path / "without", changes))
    having, records = trained(tiny_config(data, tmp_path / "with", {**changes, "train.align_every": 1}))
    assert [record.loss for record in records] == [record.loss for record in plain]
    after = weights(having)
    assert not [name for name, value in weights(without).items() if not torch.equal(value, after[name])]


def test_running_statistics_of_a_resnet_do_not_move_by_it(tmp_path):
    data = tiny_set(tmp_path / "set", size=32)
    ends = []
    for name, every in (("without", None), ("with", 1)):
        config = family_config("resnet", data, tmp_path / name)
        train = config.train.model_copy(update={"align_every": every})
        trainer, records = trained(config.model_copy(update={"train": train}))
        ends.append(weights(trainer))
    assert records[-1].cos_ssl_mix is not None
    assert "backbone.net.bn1.running_var" in ends[0]
    assert not [name for name, value in ends[0].items() if not torch.equal(value, ends[1][name])]


def test_off_makes_no_forward_more(data, tmp_path, monkeypatch):
    passes = []
    forward = MixModel.forward
    monkeypatch.setattr(MixModel, "forward", lambda self, *a, **k: passes.append(0) or forward(self, *a, **k))
    counts = []
    for name, changes in (("without", {}), ("with", {"train.align_every": 2})):
        passes.clear()
        trained(tiny_config(data, tmp_path / name, changes))
        counts.append(len(passes))
    assert counts[1] - counts[0] == 2  # of steps 4 and 6


def test_a_step_without_labels_leaves_its_window_without_cosines(data, tmp_path):
    window = Window(ALONE, make_trainer(tiny_config(data, tmp_path)).feed.train["mix"])
    assert window._mean_cosines() is None
    window.align(torch.tensor([math.nan, 1.0, math.nan]))
    assert window._mean_cosines() is None
    window.align(torch.tensor([0.25, 0.5, 0.75]))
    window.align(torch.tensor([0.75, 0.5, 0.25]))
    assert window._mean_cosines() == (0.5, 0.5, 0.5)


def test_the_time_of_measuring_is_evaluation_and_not_training(data, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(window_module.time, "perf_counter", lambda: clock[0])
    trainer = make_trainer(tiny_config(data, tmp_path / "run", {"train.align_every": 1, "method.mix_ratio": 1.0}))
    measure = trainer.alignment

    def slowly(*arguments):
        clock[0] += 100.0
        return type(measure).__call__(measure, *arguments)

    trainer.alignment = slowly
    real = trainer.verdicts.post
    monkeypatch.setattr(trainer.verdicts, "post", lambda *a: (clock.__setitem__(0, clock[0] + 1.0), real(*a))[1])
    records = list(trainer.records())
    assert records[-1].latency_s == 4.0  # a second for each step
    assert trainer.progress.evaluation_s == 400.0
