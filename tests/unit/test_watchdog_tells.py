"""A rank under a watchdog is known to the others from its first moment on."""

from pathlib import Path

import torch
from torch.distributed import HashStore

from mixdist.engine.hang import Standing
from mixdist.engine.watchdog import STANDING, Watchdog
from mixdist.world import World


def test_a_rank_has_said_where_it_is_before_it_trains(tmp_path: Path) -> None:
    world = World(rank=1, local_rank=1, size=2, local_size=2, device=torch.device("cpu"))
    store = HashStore()
    with Watchdog(world, store, tmp_path / "hang", timeout_s=3000):
        assert Standing.from_json(store.get(f"{STANDING}1")).rank == 1
    assert not (tmp_path / "hang").exists()
