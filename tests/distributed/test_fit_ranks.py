"""`train.micro_batch auto` on ranks of unequal memory: the smallest decides, and all say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import run, torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.minutes]

SCRIPT = """
from mixdist.engine.fit import largest_that_fits
from mixdist.world import process_group, read_world

world = read_world()
with process_group(world):
    for limits in ((100, 13), (7, 100), (0, 100), (100, 100)):
        found = largest_that_fits(lambda rows: rows <= limits[world.rank], 40, world)
        told = world.gather(found)
        if world.is_main:
            print("found", limits, told)
"""


def test_the_rank_with_the_least_memory_decides_for_all(tmp_path: Path) -> None:
    script = tmp_path / "fit_on_a_rank.py"
    script.write_text(SCRIPT)
    done = run(torchrun(2, str(script)), tmp_path)
    assert done.code == 0, done.err
    assert [line for line in done.out.splitlines() if line.startswith("found")] == [
        "found (100, 13) [13, 13]",
        "found (7, 100) [7, 7]",
        "found (0, 100) [0, 0]",
        "found (100, 100) [40, 40]",
    ]
