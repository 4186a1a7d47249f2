"""Ranks of two nodes that count their restarts differently, at the one store that torchrun keeps for all restarts."""

from __future__ import annotations

import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
from launching import TIMEOUT_S, start
from torch.distributed import TCPStore

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANK = """
    import torch
    from mixdist.world import FALLEN, process_group, read_world

    world = read_world()
    with process_group(world) as store:
        assert not store.check([FALLEN])
        print(int(world.sum(torch.ones(1))))
        store.set(FALLEN, "rank 0 failed")
"""


def test_a_restart_that_only_one_node_counts_brings_all_ranks_to_one_store(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(textwrap.dedent(RANK))
    agent = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=30), wait_for_workers=False)
    place = {
        "WORLD_SIZE": 2,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": agent.port,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for counts in ((0, 0), (0, 1), (1, 1)):  # a rank of node 1 dies, then one of node 0
        ranks = []
        for rank, count in enumerate(counts):
            own = {**place, "RANK": rank, "TORCHELASTIC_RESTART_COUNT": count}
            words = [f"{name}={value}" for name, value in own.items()]
            ranks.append(start(["env", *words, sys.executable, "rank.py"], tmp_path))
        for process in ranks:
            try:
                out, err = process.communicate(timeout=TIMEOUT_S)
            finally:
                for each in ranks if process.poll() is None else []:
                    each.kill()
            assert (process.returncode, out) == (0, "2\n"), err
