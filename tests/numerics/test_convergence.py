"""Each arm learns: thirty updates on a small learnable set lower both losses."""

import sys
from pathlib import Path
from statistics import mean

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from tiny_run import make_trainer, tiny_config, tiny_set

STEPS = 30  # of each objective: 10 epochs of 3 updates


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("convergence") / "set", train=48, test=24)


def curves(data, run, arm):
    changes = {
        "method.arm": arm,
        "method.ssl_epochs": 10,
        "method.sl_epochs": 10,
        "train.batch": 16,
        "optim.ssl.base_lr": 0.03,
        "optim.sl.base_lr": 0.03,
        "optim.ssl.warmup_epochs": 1,
        "optim.sl.warmup_epochs": 1,
        "seed": 1,
    }
    records = list(make_trainer(tiny_config(data, run, changes)).records())
    losses = {
        name: [value for record in records if (value := getattr(record, name)) is not None]
        for name in ("loss_ssl", "loss_sl")
    }
    return losses, records[-1].accuracy


@pytest.mark.parametrize("arm", ["sl", "ssl+sl", "mixtraining"])
def test_thirty_updates_lower_the_losses_of_an_arm(data, tmp_path, arm):
    losses, accuracy = curves(data, tmp_path, arm)
    assert len(losses["loss_sl"]) == STEPS
    assert len(losses["loss_ssl"]) == (0 if arm == "sl" else STEPS)
    for name, curve in losses.items():
        if curve:
            assert mean(curve[-3:]) < 0.7 * mean(curve[:3]), (name, curve)
    assert accuracy > 60  # of three classes, a third by chance
