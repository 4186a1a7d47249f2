"""torchrun --max_restarts: ranks killed at any moment, and the run ends as if nothing had been."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, checkpoints, family, flags, records, start, torchrun, wait_for

from benchmarks.faults_run import alive, differing, ranks_of

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]


def test_ranks_killed_in_set_up_in_an_epoch_and_in_a_save_are_restarted_and_nothing_is_lost(
    packed_sets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = flags({**SETTINGS, "data.sl": packed_sets / "digits"})
    process = start(torchrun(2, "--max_restarts=3", "-m", "mixdist.train", *arguments), tmp_path)
    run = tmp_path / "run"
    moments = (
        (0, run.exists),  # before the first step
        (1, lambda: any(record["step"] > 70 for record in records(run))),
        (0, lambda: any((run / "checkpoints").glob("*000135*"))),  # while or just after it is written
    )
    started = []
    for rank, reached in moments:
        wait_for(lambda: len(ranks_of(process.pid)) == 2, process)
        wait_for(reached, process)
        ranks = ranks_of(process.pid)
        started += family(process.pid)[1:]
        os.kill(ranks[rank], signal.SIGKILL)
        wait_for(lambda: not any(map(alive, ranks.values())), process)  # noqa: B023
    _, err = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0, err
    assert [record["step"] for record in records(run)] == list(range(1, 181))
    assert checkpoints(run)[-1].name == "step-000000180"
    assert [each for each in started if alive(each)] == []
    assert differing(run, undisturbed) == []
