"""Damaged images under each policy, through the real command line on two ranks."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from damage import flip_bits
from launching import QUIET, TINY_VIT, records, result, run, train

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SETTINGS = {
    **QUIET,
    **TINY_VIT,
    "train.batch": 16,
    "method.arm": "ssl+sl",
    "method.ssl_epochs": 2,
    "method.sl_epochs": 1,
    "run.dir": "run",
    "data.cache": "none",
}
BAD = (3, 40, 77)


@pytest.fixture
def damaged(packed_sets: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(packed_sets / "tiny", tmp_path / "tiny")
    for sample in BAD:
        flip_bits(folder, sample)
    return folder


def test_two_ranks_train_without_the_bad_samples_and_list_each_once(damaged: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data.sl": damaged, "data.bad_samples": "quarantine", "data.bad_limit": 3}
    done = run(train(2, settings), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == len(BAD)
    assert {line["reason"] for line in lines} == {"checksum"}
    assert result(tmp_path / "run")["bad_samples"] == 3
    steps = records(tmp_path / "run")
    assert len(steps) == 2 * 7 + 4  # as many as a sound set has: 97 images, then the 49 labelled ones
    assert steps[-1]["bad_samples"] == 3
    assert "3 samples could not be read so far" in done.out

    alone = run(train(1, {**settings, "run.dir": "alone"}), tmp_path)
    assert alone.code == 0, alone.err
    for one, other in zip(steps, records(tmp_path / "alone"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_without_a_policy_the_first_bad_sample_of_several_micro_batches_ends_the_run(
    tmp_path: Path, damaged: Path
) -> None:
    settings = {**SETTINGS, "data.sl": damaged, "data.workers": 1, "train.micro_batch": 4}
    done = run(train(1, settings), tmp_path)
    assert (done.code, done.own_tracebacks) == (2, []), done.err
    (line,) = done.errors
    assert re.search(r"sample '\S+' in \S+/train-\d+\.tar: checksum differs from the index", line)


def test_over_the_limit_both_ranks_stop_with_the_table_and_exit_2(damaged: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data.sl": damaged, "data.bad_samples": "skip", "data.bad_limit": 2}
    done = run(train(2, settings), tmp_path)
    assert 2 in done.exit_codes
    assert set(done.exit_codes) <= {2, -signal.SIGTERM}  # torchrun may end a rank that is still leaving
    (line,) = done.errors
    assert "3 of 97 samples cannot be read, more than data.bad_limit 2 allows (2)" in line
    assert "     3  checksum" in done.err
    assert done.own_tracebacks == []
    assert not (tmp_path / "run" / "result.json").exists()
