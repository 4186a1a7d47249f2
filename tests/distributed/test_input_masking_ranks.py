"""SSL that masks its input is the same run on any number of ranks, and crosses into MIX there."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import QUIET, TINY_VIT, records, run, train, train_here

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SETTINGS = {
    **QUIET,
    **TINY_VIT,
    "method.ssl_masking": "input",
    "method.ssl_epochs": 2,
    "method.sl_epochs": 2,
    "optim.ssl.base_lr": 1e-2,
    "train.batch": 16,
}


def test_losses_on_two_ranks_are_those_of_one_process(packed_sets: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data.sl": packed_sets / "tiny"}
    assert train_here({**settings, "run.dir": tmp_path / "alone"}) == 0
    done = run(train(2, {**settings, "train.micro_batch": 5, "run.dir": "ranks"}), tmp_path)
    assert done.code == 0, done.err
    alone, ranks = records(tmp_path / "alone"), records(tmp_path / "ranks")
    assert {record["phase"] for record in alone} == {"ssl", "mix", "sl"}
    assert [record["loss"] for record in ranks] == pytest.approx([record["loss"] for record in alone], rel=1e-5)
