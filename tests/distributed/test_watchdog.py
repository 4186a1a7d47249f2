"""A rank that stands still is named with its stage, the job ends, and a restarted one ends as if nothing had been."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, Done, family, flags, records, run, start, torchrun, wait_for

from benchmarks.faults_run import alive, differing, ranks_of

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]


def loader_of(rank: int) -> int:
    """Return a process that decodes for the training process ``rank``."""
    return next(each for each in family(rank) if b"reading.worker" in Path(f"/proc/{each}/cmdline").read_bytes())


def test_a_stopped_rank_and_a_stopped_loader_are_named_and_torchrun_restarts_from_the_checkpoint(
    packed_sets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "data.sl": packed_sets / "digits", "data.cache": "none", "data.workers": 1}
    arguments = ["--max_restarts=2", "-m", "mixdist.train", *flags({**settings, "run.hang_timeout_s": 8})]
    process = start(torchrun(2, *arguments), tmp_path)
    table = tmp_path / "run" / "hang" / "table.txt"
    reports, started = [], []
    for epoch, stopped in enumerate((lambda rank: rank, loader_of), 1):  # each in mid-epoch
        wait_for(lambda passed=45 * epoch + 5: step_of(tmp_path) > passed, process)
        ranks = ranks_of(process.pid)
        started += family(process.pid)[1:]
        os.kill(stopped(ranks[1]), signal.SIGSTOP)
        wait_for(table.exists, process)
        reports.append(table.read_text().splitlines())
        wait_for(lambda: not any(map(alive, ranks.values())), process)  # noqa: B023
        table.unlink()
    _, err = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0, err
    assert "does not answer any more, last seen: rank 1 (" in reports[0][0]
    assert reports[0][2].endswith("waits for 1")
    assert "stopped, gone or cut off" in reports[0][3]
    assert "holds the others up: rank 1 (" in reports[1][0]
    assert "in data of step" in reports[1][0]
    assert "agree" in reports[1][2]
    assert "all_reduce" in (table.parent / "rank-0.txt").read_text()  # where its thread waits
    assert "in wait" in (table.parent / "rank-1.txt").read_text()
    assert [process for process in started if alive(process)] == []
    assert differing(tmp_path / "run", undisturbed) == []


def step_of(folder: Path) -> int:
    """Return how far a run's newest process is."""
    found = records(folder / "run")
    return found[-1]["step"] if found else 0


STUCK = """
    import ctypes, os, sys, threading
    from pathlib import Path
    from mixdist.engine import heartbeat
    from mixdist.engine.watchdog import Watchdog
    from mixdist.world import failures_told, process_group, read_world

    def stuck():  # for ever, in a call that no signal and no exception ends, as in a kernel of NCCL
        lock = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(lock)

    world = read_world()
    with process_group(world) as store, failures_told(world, store):
        with Watchdog(world, store, Path("hang"), float(sys.argv[1])):
            heartbeat.begin(36, "mix", first=False)
            heartbeat.beat("backward")
            if world.rank == 0:
                stuck()
            raise ValueError("no such column")
"""


def test_a_run_of_one_process_that_stands_still_ends_with_its_stacks(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(textwrap.dedent(STUCK))
    done = run([sys.executable, "stuck.py", "1"], tmp_path)
    assert done.code == 76
    assert done.err.startswith("mixdist: error: the run stands still: rank 0 (")
    assert "in backward of step 37 (mix)" in done.err
    assert 'stuck.py", line' in (tmp_path / "hang" / "rank-0.txt").read_text()
    assert (tmp_path / "hang" / "table.txt").read_text() in done.err


def test_a_rank_stuck_on_its_device_leaves_after_one_that_failed(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(textwrap.dedent(STUCK))
    # Without torchrun, which would end rank 0 after 30 s itself.
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    ranks = [
        start(["env", *(f"{key}={value}" for key, value in {**place, "RANK": rank, "LOCAL_RANK": rank}.items()),
               sys.executable, "stuck.py", "0"], tmp_path)
        for rank in (0, 1)
    ]  # fmt: skip
    ended = []
    for process in ranks:
        out, err = process.communicate(timeout=TIMEOUT_S)
        ended.append(Done(process.returncode, out, err))
    assert [done.code for done in ended] == [1, 1]
    assert "stopped, because rank 1 (" in ended[0].err
    assert ended[0].errors[0].endswith("failed: ValueError: no such column")
    assert not (tmp_path / "hang").exists()


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port
