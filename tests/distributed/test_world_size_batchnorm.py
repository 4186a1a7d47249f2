"""With BatchNorm too, the run on any number of ranks is the same: statistics are of the global micro-batch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from launching import QUIET, checkpoints, records, run, train, train_here
from safetensors.torch import load_file

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]

SAME = ("step", "samples", "loss", "loss_ssl", "loss_sl")
# 97 images in batches of 16: each epoch ends with one image, whose last feature map is 1 x 1. Over fewer values than
# these, a variance near nothing blows rounding up to per cents within a few steps.
SETTINGS = {
    **QUIET,
    "model.backbone": "resnet18",
    "model.options": "{layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}",
    "data.augment": "crop-flip",
    "data.image_size": 32,
    "method.ssl_epochs": 2,
    "method.sl_epochs": 2,
    "optim.ssl.base_lr": 1e-2,
    "optim.sl.base_lr": 1e-2,
    "train.batch": 16,
}
ALONE = {"1-rank": {}, "1-rank-accumulated": {"train.micro_batch": 9}}
SPREAD = {  # folder -> ranks, further settings, whose global micro-batches are those of which run alone
    "2-ranks": (2, {}, "1-rank"),
    "3-ranks-accumulated": (3, {"train.micro_batch": 3}, "1-rank-accumulated"),
}


@pytest.fixture(scope="module")
def runs(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders, of one process and of several."""
    folder = tmp_path_factory.mktemp("world-size-batchnorm")
    settings = {**SETTINGS, "data.sl": packed_sets / "tiny"}
    for name, more in ALONE.items():
        assert train_here({**settings, **more, "run.dir": folder / name}) == 0
    for name, (ranks, more, _) in SPREAD.items():
        done = run(train(ranks, {**settings, **more, "run.dir": name}), folder)
        assert done.code == 0, done.err
    return folder


def test_the_run_has_all_phases_and_tails_of_one_image(runs: Path) -> None:
    found = records(runs / "1-rank")
    assert {record["phase"] for record in found} == {"ssl", "mix", "sl"}
    assert 1 in {after["samples"] - before["samples"] for before, after in pairwise(found)}


@pytest.mark.parametrize("name", SPREAD)
def test_losses_weights_and_statistics_are_those_of_one_process(runs: Path, name: str) -> None:
    expected, found = records(runs / SPREAD[name][2]), records(runs / name)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        same = {key: one[key] for key in SAME if one[key] is not None}
        assert {key: other[key] for key in same} == pytest.approx(same, rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    alone, spread = (weights(runs / folder) for folder in (SPREAD[name][2], name))
    assert list(alone) == list(spread)
    assert "backbone.net.bn1.running_var" in alone
    for key, value in alone.items():
        torch.testing.assert_close(spread[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights and running statistics that a run ended with."""
    return load_file(checkpoints(folder)[-1] / "model.safetensors")
