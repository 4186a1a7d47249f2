"""Before the first step: a rank that stops ends the run, and one that works for long does not."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, Done, flags, kill, start, torchrun, wait_for
from test_watchdog import free_port

from benchmarks.faults_run import alive, ranks_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANK = """
    import os, signal, sys, threading, time
    from pathlib import Path

    import torch
    import torch.distributed as dist

    from mixdist import world as joining
    from mixdist.engine import heartbeat
    from mixdist.engine.watchdog import Watchdog
    from mixdist.world import process_group, read_world

    def stop(*_, **__):
        print("stopped", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

    world = read_world()
    what = sys.argv[1] if world.rank == 1 else ""
    if what == "stops while it joins":
        dist.init_process_group = stop
    joining.JOIN_S = 3.0
    with process_group(world) as store, Watchdog(world, store, Path("hang"), 0.5):  # a stage of set-up has 2 s
        heartbeat.beat("start")
        if what == "decodes":
            began = time.monotonic()
            while time.monotonic() < began + 6:
                time.sleep(0.05)
                heartbeat.alive()
        if what == "stands":
            threading.Event().wait()
        heartbeat.beat("start")
        print(int(world.sum(torch.ones(1))))
"""


def two_ranks(folder: Path, what: str) -> list[Done]:
    """Return how two ranks ended of which rank 1 does something; one that has stopped is killed after the other."""
    (folder / "rank.py").write_text(textwrap.dedent(RANK))
    place = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    words = [
        [f"{key}={value}" for key, value in {**place, "RANK": rank, "LOCAL_RANK": rank}.items()] for rank in (0, 1)
    ]
    ranks = [start(["env", *own, sys.executable, "rank.py", what], folder) for own in words]
    try:
        out, err = ranks[0].communicate(timeout=TIMEOUT_S)
        first = Done(ranks[0].returncode, out, err)
        if what.startswith("stops"):
            return [first, kill(ranks[1])]
        out, err = ranks[1].communicate(timeout=TIMEOUT_S)
        return [first, Done(ranks[1].returncode, out, err)]
    finally:
        for each in ranks:
            if each.poll() is None:
                kill(each)


def test_a_rank_that_decodes_for_long_is_waited_for(tmp_path: Path) -> None:
    assert [(done.code, done.out) for done in two_ranks(tmp_path, "decodes")] == [(0, "2\n"), (0, "2\n")]


def test_a_rank_that_stands_still_in_set_up_holds_the_others_up(tmp_path: Path) -> None:
    ended = two_ranks(tmp_path, "stands")
    table = (tmp_path / "hang" / "table.txt").read_text()
    assert "a process holds the others up: rank 1 (" in table.splitlines()[0]
    assert table.splitlines()[0].endswith("in start, before its first step")
    assert [done.code for done in ended] == [76, 76]
    # One has made the report and the other has read it, also where that is in the process of the one that made it.
    assert sum(table.strip() in done.err for done in ended) == 1
    assert not list((tmp_path / "hang").glob("table-of-rank-*"))


def test_a_rank_that_stops_while_the_ranks_join_does_not_keep_the_others(tmp_path: Path) -> None:
    first, second = two_ranks(tmp_path, "stops while it joins")
    assert (first.code, second.out) == (76, "stopped\n")
    assert "not each other within 3 s: one has stopped" in first.err


@pytest.mark.minutes
def test_a_rank_stopped_while_a_run_is_set_up_is_named_and_the_run_ends(packed_sets: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data.sl": packed_sets / "digits", "run.hang_timeout_s": 3}
    process = start(torchrun(2, "-m", "mixdist.train", *flags(settings)), tmp_path)
    wait_for((tmp_path / "run").exists, process)
    ranks = ranks_of(process.pid)
    os.kill(ranks[1], signal.SIGSTOP)
    _, err = process.communicate(timeout=TIMEOUT_S)
    done = Done(process.returncode, "", err)
    assert 76 in done.exit_codes
    assert "does not answer any more, last seen: rank 1 (" in (tmp_path / "run" / "hang" / "table.txt").read_text()
    assert not any(map(alive, ranks.values()))
