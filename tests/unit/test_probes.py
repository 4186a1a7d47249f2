"""Probes of frozen features: what they say of known features, and that training does not notice them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packing import run as run_pack
from packing import write_images
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from tiny_run import family_config, make_trainer, phase_of, tiny_config, tiny_set, weights

from mixdist.data.select import at_most
from mixdist.engine import heartbeat
from mixdist.engine.prober import Prober
from mixdist.engine.probes import PENALTIES, TEMPERATURE, Findings, knn, linear, probe, spread_and_rank
from mixdist.engine.record import StepRecord
from mixdist.errors import UserError
from mixdist.tracking import PhaseInfo, RunInfo
from mixdist.tracking.console import Console
from mixdist.tracking.screens import PlainScreen
from mixdist.tracking.wandb_values import values
from mixdist.world import World

DROPPING = {
    "model.options": {"depth": 2, "embed_dim": 32, "num_heads": 2, "drop_path_rate": 0.2, "proj_drop_rate": 0.1}
}
FIELDS = ("knn", "linear_probe", "feature_spread", "feature_rank", "collapsed")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("probes") / "set", train=40, test=23)


def classed(count=120, width=8, classes=4, noise=0.3, seed=0):
    """Return features around a point for each class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, width, generator=generator), labels


def trained(config):
    trainer = make_trainer(config)
    return trainer, list(trainer.records())


# What a probe says of known features


def test_knn_votes_as_scikit_learn_does_with_these_weights():
    (train, labels), (test, _) = classed(noise=1.5), classed(60, noise=1.5, seed=1)
    theirs = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    expected = theirs.fit(train.numpy(), labels.numpy()).predict(test.numpy())
    assert knn(train, labels, test, 4).tolist() == expected.tolist()
    few = knn(train[:3], labels[:3], test, 4)  # fewer images than neighbours
    assert set(few.tolist()) <= {0, 1, 2}


def test_the_linear_probe_is_ridge_on_standardised_features_with_the_best_penalty_left_out():
    (train, labels), (test, _) = classed(noise=1.0), classed(60, noise=1.0, seed=1)
    train, test = train * 100 + 7, test * 100 + 7  # which standardising undoes
    x = (train - train.mean(0)) / train.std(0, unbiased=False)
    targets = torch.nn.functional.one_hot(labels, 4).numpy()

    def left_out(penalty):
        error = 0.0
        for row in range(len(x)):
            kept = np.arange(len(x)) != row
            # Leaving one out moves the means too; the closed form leaves it out of the fit and its intercept.
            fitted = Ridge(alpha=penalty * len(x)).fit(x[kept].numpy(), targets[kept])
            error += float(((fitted.predict(x[row : row + 1].numpy()) - targets[row]) ** 2).sum())
        return error

    best = min(PENALTIES, key=left_out)
    model = Ridge(alpha=best * len(x)).fit(x.numpy(), targets)
    expected = model.predict(((test - train.mean(0)) / train.std(0, unbiased=False)).numpy()).argmax(1)
    assert linear(train, labels, test, 4).tolist() == expected.tolist()


def test_the_linear_probe_takes_more_features_than_images_and_features_that_never_vary():
    (train, labels), (test, test_labels) = classed(20, width=50), classed(60, width=50, seed=1)
    train[:, 3], test[:, 3] = 5.0, 5.0
    assert float((linear(train, labels, test, 4) == test_labels).float().mean()) > 0.9


def test_good_features_score_and_noise_does_not():
    good = probe(*classed(), *classed(80, seed=1), 4)
    assert min(good.knn, good.linear) > 90
    assert not good.collapsed
    _, labels = classed()
    noise = probe(torch.randn(120, 8), labels, torch.randn(80, 8), labels[:80], 4)
    assert max(noise.knn, noise.linear) < 50


@given(st.integers(1, 8), st.integers(0, 2**31))
def test_the_rank_is_the_number_of_equal_directions_and_the_spread_their_share(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0][:rank]
    steps = torch.cat([torch.eye(rank), -torch.eye(rank)])  # mean 0, the same variance in each direction
    offset = torch.randn(8, generator=generator)
    spread, found = spread_and_rank(steps @ basis + offset)
    assert found == pytest.approx(rank, rel=1e-3)
    variance = 1.0 / rank * rank  # of each of 2 · rank rows, one coordinate is 1 or -1
    assert spread == pytest.approx((variance / (variance + float(offset.square().sum()))) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("features", "collapsed"),
    [
        (torch.ones(50, 8), True),  # a constant
        (torch.ones(50, 8) + 0.01 * torch.randn(50, 8), True),  # all but a constant
        (torch.randn(50, 1) * torch.ones(1, 8), True),  # a line
        (torch.zeros(50, 8), True),
        (torch.full((50, 8), torch.nan), True),
        (torch.ones(50, 8) + 0.2 * torch.randn(50, 8), False),
        (torch.randn(50, 8), False),
    ],
)
def test_the_alarm_goes_where_images_look_alike_or_lie_on_a_line(features, collapsed):
    labels = torch.arange(50) % 4
    assert probe(features, labels, features, labels, 4).collapsed is collapsed


def test_an_alarm_is_a_number_below_its_threshold_or_none():
    assert not Findings(50, 50, 0.05, 2.0).collapsed
    assert Findings(50, 50, 0.049, 2.0).collapsed
    assert Findings(50, 50, 0.05, 1.99).collapsed


# In a run


def test_probes_come_at_the_epochs_asked_for_and_at_the_end_of_phases_that_reconstruct(data, tmp_path):
    changes = {"train.probe_every": 2, "method.ssl_epochs": 8, "method.sl_epochs": 4, "method.mix_ratio": 0.75}
    _, records = trained(tiny_config(data, tmp_path / "run", changes))
    probed = [(record.phase, record.phase_epoch) for record in records if record.knn is not None]
    assert probed == [("ssl", 2), ("ssl", 4), ("ssl", 5), ("mix", 2), ("mix", 3)]
    for record in records:
        assert len({getattr(record, name) is None for name in FIELDS}) == 1
        assert record.knn is None or (0 <= record.knn <= 100 and record.feature_rank >= 1)
    assert [r for r in records if r.knn is not None][-1].linear_probe > 60  # colours of three classes


@pytest.mark.parametrize(
    "changes",
    [DROPPING, {"train.ema_decay": 0.9}, {"data.cache": "none", "data.workers": 1}, {"train.sync_batchnorm": False}],
)
def test_training_is_bit_by_bit_what_it_is_without(data, tmp_path, changes):
    ends = []
    for name, every in (("without", None), ("with", 1)):
        trainer, records = trained(tiny_config(data, tmp_path / name, {**changes, "train.probe_every": every}))
        ends.append((weights(trainer), [record.loss for record in records], records[-1].accuracy))
    assert records[0].knn is None  # and the epoch's last has it
    assert any(record.knn is not None for record in records)
    (first, losses, accuracy), (second, *others) = ends
    assert [losses, accuracy] == others
    assert not [name for name, value in first.items() if not torch.equal(value, second[name])]


def test_running_statistics_of_a_resnet_do_not_move_by_it(tmp_path):
    data = tiny_set(tmp_path / "set", size=32)
    ends = []
    for name, every in (("without", None), ("with", 1)):
        config = family_config("resnet", data, tmp_path / name)
        train = config.train.model_copy(update={"probe_every": every})
        trainer, _ = trained(config.model_copy(update={"train": train}))
        ends.append(weights(trainer))
    assert "backbone.net.bn1.running_var" in ends[0]
    assert not [name for name, value in ends[0].items() if not torch.equal(value, ends[1][name])]


def test_features_are_those_of_stored_images_in_evaluation_by_their_own_labels(data, tmp_path):
    trainer = make_trainer(tiny_config(data, tmp_path / "run", {**DROPPING, "train.probe_every": 1}))
    model, stream = trainer.model, trainer.prober.train
    (batch,) = list(stream)
    assert len(batch.ids) == 40
    with torch.no_grad():
        images = stream.prepare(batch).images
        dropped = model.train().backbone.pool(model.backbone(images))
        expected = model.eval().backbone.pool(model.backbone(images))
        features, labels = trainer.prober._features(stream)
    assert torch.equal(features, expected)
    assert not torch.equal(features, dropped)
    assert torch.equal(labels, batch.labels)


class Unsummed(World):
    """A rank of a world whose sums stay its own."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def test_ranks_look_at_shares_that_add_up_to_the_bits_of_one_process(data, tmp_path):
    trainer = make_trainer(tiny_config(data, tmp_path / "run", {"train.probe_every": 1, "train.eval_batch": 7}))
    stream, model = trainer.prober.train, trainer.model.eval()
    beats = []
    with torch.no_grad():
        whole, _ = trainer.prober._features(stream)
        for rank in range(3):
            heartbeat.begin(0, "ssl", first=False)
            share = replace(stream, world=Unsummed(rank, rank, 3, 3, torch.device("cpu")))
            own, labels = Prober(model, share, share, trainer.precision)._features(share)
            mine = np.concatenate([batch.ids for batch in share])
            assert 7 <= len(mine) <= 14
            places = np.searchsorted(stream.ids, mine)
            assert torch.equal(own, whole[places])
            assert labels.tolist() == stream.labels[mine].tolist()
            beats.append(heartbeat.last().beats)
    assert len(set(beats)) == 1  # though the ranks have different numbers of batches: the watchdog compares them


def test_a_model_that_gives_all_images_the_same_features_is_collapsed_and_one_that_is_fresh_is_not(data, tmp_path):
    trainer = make_trainer(tiny_config(data, tmp_path / "run", {"train.probe_every": 1}))
    update = trainer.updater(phase_of(trainer, "ssl"))
    assert not trainer.prober(update.strategy).collapsed
    torch.nn.init.zeros_(trainer.model.backbone.net.norm.weight)
    found = trainer.prober(update.strategy)
    assert found.collapsed
    assert found.spread == pytest.approx(0, abs=1e-6)


def test_the_console_writes_each_probe_and_the_alarm_once_until_it_is_over():
    stream = io.StringIO()
    console = Console(PlainScreen(stream, interval_s=1e9))
    console.start(RunInfo(Path("run"), {}, (PhaseInfo("ssl", 10, 100),), 0, "run", "group", "ssl+sl"))
    record = StepRecord(
        step=10, phase="ssl", epoch=1, phase_epoch=1, samples=64, loss=0.5, loss_ssl=0.5, loss_sl=None, lr=1e-3,
        lr_reconstruct=1e-3, lr_classify=None, alpha=1.0, grad_norm=1.0, images_per_s=5.0, data_wait=0.0,
        memory_mb=10.0, latency_s=0.1, knn=31.25, linear_probe=40.04, feature_spread=0.0123, feature_rank=7.06,
        collapsed=False,
    )  # fmt: skip
    console.log(record)
    line = "ssl  epoch 1/10  step 10/100  probe: kNN 31.2 %  linear 40.0 %  spread 0.012  rank 7.1"
    assert stream.getvalue().splitlines()[-1] == line
    for collapsed in (True, True, False, None, True):
        console.log(replace(record, collapsed=collapsed, knn=None if collapsed is None else 31.25))
    written = [("probe" if "probe:" in text else "alarm") for text in stream.getvalue().splitlines()[-6:]]
    assert written == ["probe", "alarm", "probe", "probe", "probe", "alarm"]
    assert "features have collapsed" in stream.getvalue()
    sent = values(record, world_size=1)
    assert (sent["eval/knn"], sent["eval/linear_probe"], sent["eval/collapsed"]) == (31.25, 40.04, False)


def test_a_run_of_ssl_alone_is_probed_too(data, tmp_path):
    changes = {"train.probe_every": 1, "method.arm": "ssl+sl", "method.sl_epochs": 0}
    trainer, records = trained(tiny_config(data, tmp_path / "run", changes))
    assert trainer.feed.test is None
    assert sum(record.knn is not None for record in records) == 2


def test_what_a_probe_takes_counts_as_evaluation(data, tmp_path):
    changes = {"train.probe_every": 1, "method.arm": "ssl+sl", "method.sl_epochs": 0}
    trainer, _ = trained(tiny_config(data, tmp_path / "run", changes))
    assert trainer.progress.evaluation_s > 0  # this run evaluates nothing else


def test_a_set_without_labels_is_refused_by_name(tmp_path):
    folder = tmp_path / "plain"
    run_pack(write_images(tmp_path / "images", *(f"{row}.png" for row in range(11))), folder)
    changes = {"train.probe_every": 1, "method.arm": "ssl+sl", "method.sl_epochs": 0, "data.image_size": 8}
    with pytest.raises(UserError, match=r"train\.probe_every judges features by labels, and data\.sl .* no labelled"):
        make_trainer(tiny_config(folder, tmp_path / "run", changes))


def test_of_many_images_the_same_are_taken():
    ids = np.arange(100, 25_000)
    assert np.array_equal(at_most(10_000, ids), at_most(10_000, ids))
    taken = at_most(10_000, ids)
    assert len(set(taken.tolist())) == 10_000
    assert set(taken.tolist()) <= set(ids.tolist())
    assert (np.diff(taken) > 0).all()
    assert np.array_equal(at_most(10_000, ids[:50]), ids[:50])


def test_an_arm_that_never_reconstructs_opens_nothing_to_probe(data, tmp_path):
    trainer, records = trained(tiny_config(data, tmp_path / "run", {"train.probe_every": 1, "method.arm": "sl"}))
    assert trainer.prober is None
    assert all(record.knn is None for record in records)
