"""torchrun --max_restarts: ranks killed at any moment, and the run ends as if nothing had been."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, checkpoints, family, flags, records, run, start, torchrun, wait_for

from benchmarks.faults_run import alive, differing, ranks_of

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]


def test_ranks_killed_in_set_up_in_an_epoch_and_in_a_save_are_restarted_and_nothing_is_lost(
    packed_sets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = flags({**SETTINGS, "data.sl": packed_sets / "digits", "run.resume": "fresh"})
    process = start(torchrun(2, "--max_restarts=3", "-m", "mixdist.train", *arguments), tmp_path)
    folder = tmp_path / "run"
    moments = (
        (0, folder.exists),  # before the first step
        (1, lambda: any(record["step"] > 70 for record in records(folder))),
        (0, lambda: any((folder / "checkpoints").glob("*000135*"))),  # while or just after it is written
    )
    started = []
    for rank, reached in moments:
        wait_for(lambda: len(ranks_of(process.pid)) == 2, process)
        wait_for(reached, process)
        ranks = ranks_of(process.pid)
        started += family(process.pid)[1:]
        os.kill(ranks[rank], signal.SIGKILL)
        wait_for(lambda: not any(map(alive, ranks.values())), process)  # noqa: B023
    out, err = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0, err
    assert out.count("removes nothing") == 3, out
    assert [record["step"] for record in records(folder)] == list(range(1, 181))
    assert checkpoints(folder)[-1].name == "step-000000180"
    assert [each for each in started if alive(each)] == []
    assert differing(folder, undisturbed) == []


def test_a_restart_that_only_another_node_knows_of_removes_nothing_either(packed_sets: Path, tmp_path: Path) -> None:
    epochs = {"method.arm": "sl", "method.sl_epochs": 1}
    settings = {**SETTINGS, **epochs, "data.sl": packed_sets / "tiny", "run.resume": "fresh"}
    assert run([sys.executable, "-m", "mixdist.train", *flags(settings)], tmp_path).code == 0
    command = shlex.join([sys.executable, "-m", "mixdist.train", *flags(settings)])
    counted = ["--no-python", "bash", "-c", f"export SLURM_RESTART_COUNT=$RANK; exec {command}"]
    done = run(torchrun(2, *counted), tmp_path)
    assert (done.code, done.out.count("run is finished")) == (0, 1), done.err
