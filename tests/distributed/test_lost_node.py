"""launch/many-nodes.sh: after the death of a rank, and when a lost node is back, all ranks start again."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, environment, flags, kill, records, start, wait_for
from test_watchdog import free_port

from benchmarks.faults_run import differing, ranks_of

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]

SCRIPT = Path(__file__).parents[2] / "launch/many-nodes.sh"


def test_a_rank_that_dies_and_a_node_that_comes_back_cost_a_restart_each(
    packed_sets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    port = free_port()
    here = ["env", f"PATH={path}", "NODES=2", "RANKS=1", f"MAIN=127.0.0.1:{port}"]
    command = [*here, str(SCRIPT), *flags({**SETTINGS, "data.sl": packed_sets / "digits", "run.save_every_steps": 20})]
    run = tmp_path / "run"

    def passed(step: int) -> None:
        wait_for(lambda: any(record["step"] > step for record in records(run)), nodes[0])

    nodes = [start(command, tmp_path)]
    wait_for(lambda: listening(port), nodes[0])  # so that it is MAIN
    nodes.append(start(command, tmp_path))
    try:
        passed(25)
        (rank,) = ranks_of(nodes[1].pid).values()
        os.kill(rank, signal.SIGKILL)
        wait_for(lambda: set(ranks_of(nodes[1].pid).values()) - {rank}, nodes[0])
        passed(65)
        kill(nodes.pop())
        nodes.append(start(command, tmp_path))
        for process in nodes:
            _, err = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, err
    finally:
        for process in nodes:
            with suppress(ValueError):  # it has ended, and its output is read
                kill(process)
    assert [record["step"] for record in records(run)] == list(range(1, 181))
    assert differing(run, undisturbed) == []


def listening(port: int) -> bool:
    """Whether a process of this machine listens at a port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
