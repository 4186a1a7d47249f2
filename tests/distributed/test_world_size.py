"""The same run on any number of ranks is the same run, through torchrun and gloo."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from launching import QUIET, TINY_VIT, records, result, run, train, train_here

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SAME = ("step", "epoch", "samples", "loss", "loss_ssl", "loss_sl", "lr", "alpha", "grad_norm", "accuracy")
# D_ssl is another set than D_sl, so MIX pairs images (Eq. 2). Each phase ends its epochs with a batch of one image,
# of which three of four ranks have nothing.
SETTINGS = {
    **QUIET,
    **TINY_VIT,
    "data.augment": "crop-flip",
    "method.ssl_epochs": 3,
    "method.sl_epochs": 3,
    "method.mix_ratio": 0.67,
    "method.loss_ratio_schedule": "linear",
    "optim.ssl.base_lr": 1e-2,
    "optim.sl.base_lr": 1e-2,
    "train.batch": 16,
    "train.mixup": 0.4,
    "train.eval_batch": 8,
    "train.align_every": 2,
    "train.probe_every": 1,
}
ONE_IMAGE = 100 / 31 + 1e-9  # percent of the test images: weights that differ in their last digits may turn one over
ALONE = "1-rank"
SPREAD = {  # folder -> ranks, further settings
    "2-ranks": (2, {}),
    "3-ranks": (3, {}),
    "4-ranks": (4, {}),
    "2-ranks-accumulated": (2, {"train.micro_batch": 3}),
}


@pytest.fixture(scope="module")
def runs(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders, of one process and of several."""
    folder = tmp_path_factory.mktemp("world-size")
    data = {"data.sl": packed_sets / "tiny", "data.ssl": packed_sets / "flat"}
    assert train_here({**SETTINGS, **data, "run.dir": folder / ALONE}) == 0
    for name, (ranks, more) in SPREAD.items():
        done = run(train(ranks, {**SETTINGS, **data, **more, "run.dir": name}), folder)
        assert done.code == 0, done.err
    return folder


def test_the_run_has_all_phases_and_tails_of_one_image(runs: Path) -> None:
    found = records(runs / ALONE)
    assert [record["phase"] for record in found] == ["ssl"] * 3 + ["mix"] * 8 + ["sl"] * 4
    seen = [0, *(record["samples"] for record in found)]
    sizes = [after - before for before, after in pairwise(seen)]
    assert sizes == [16, 16, 1] + 3 * [16, 16, 16, 1]
    assert [record["step"] for record in found if probed(record)] == [3, 7, 11]  # epochs of SSL and MIX
    assert [record["step"] for record in found if aligned(record)] == list(range(4, 16, 2))
    assert found[-1]["accuracy"] > 100 / 3 + 10  # far enough from chance for the comparison to mean something


@pytest.mark.parametrize("name", SPREAD)
def test_losses_rates_and_accuracy_are_those_of_one_process(runs: Path, name: str) -> None:
    alone, spread = (records(runs / run) for run in (ALONE, name))
    assert len(alone) == len(spread)
    for expected, found in zip(alone, spread, strict=True):
        assert compared(found) == pytest.approx(compared(expected), rel=1e-5)
        assert probed(found) == pytest.approx(probed(expected), rel=1e-3, abs=ONE_IMAGE)
        assert aligned(found) == pytest.approx(aligned(expected), abs=1e-4)
    assert result(runs / name)["world_size"] == SPREAD[name][0]
    assert result(runs / name)["accuracy"] == result(runs / ALONE)["accuracy"]


def compared(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers that have to be the same; one that a phase does not have is left out."""
    return {key: record[key] for key in SAME if record[key] is not None}


def probed(record: dict[str, Any]) -> dict[str, float]:
    """Return what a probe of frozen features found, where the step has one."""
    names = ("knn", "linear_probe", "feature_spread", "feature_rank")
    return {key: record[key] for key in names if record[key] is not None}


def aligned(record: dict[str, Any]) -> dict[str, float]:
    """Return the cosines between the objectives' gradients, where the step has them."""
    return {key: record[key] for key in ("cos_ssl_sl", "cos_ssl_mix", "cos_sl_mix") if record[key] is not None}
