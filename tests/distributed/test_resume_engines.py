"""A run taken up under ZeRO, and on fewer ranks each time, by the real command line."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, records, run, start, train, wait_for

from benchmarks.faults_run import differing

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]

SHORT = {**SETTINGS, "data.fraction": 0.1}  # 9 steps an epoch, 36 in all
ZERO_2 = {"parallel.strategy": "deepspeed", "parallel.zero_stage": 2}


def stop_after(step: int, ranks: int, settings: dict[str, Any], folder: Path) -> None:
    """Start the run and let SIGTERM stop it once a record of the step is there."""
    process = start(train(ranks, settings), folder)
    wait_for(lambda: any(record["step"] >= step for record in records(folder / settings["run.dir"])), process)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert "which is saved" in err


def test_a_run_stopped_under_zero_2_ends_with_the_bits_of_one_that_was_not(packed_sets: Path, tmp_path: Path) -> None:
    settings = {**SHORT, **ZERO_2, "data.sl": packed_sets / "digits"}
    stop_after(12, 2, settings, tmp_path)
    for name in ("run", "whole"):
        done = run(train(2, {**settings, "run.dir": name}), tmp_path)
        assert done.code == 0, done.err
    assert differing(tmp_path / "run", tmp_path / "whole") == []


@pytest.mark.parametrize("strategy", [{}, ZERO_2], ids=["ddp", "zero-2"])
def test_a_run_taken_up_on_4_then_2_then_1_ranks_trains_what_2_ranks_train(
    packed_sets: Path, tmp_path: Path, strategy: dict[str, Any]
) -> None:
    settings = {**SHORT, **strategy, "data.sl": packed_sets / "digits"}
    stop_after(5, 4, settings, tmp_path)
    stop_after(20, 2, settings, tmp_path)
    for ranks, name in ((1, "run"), (2, "whole")):
        done = run(train(ranks, {**settings, "run.dir": name}), tmp_path)
        assert done.code == 0, done.err
    found, expected = records(tmp_path / "run"), records(tmp_path / "whole")
    assert [record["step"] for record in found] == list(range(1, 37))
    assert [record["samples"] for record in found] == [record["samples"] for record in expected]
    assert [record["loss"] for record in found] == pytest.approx([record["loss"] for record in expected], rel=0.02)
