"""The short form of `python -m benchmarks.faults`: one fault of each kind on the way of one run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from launching import run

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]


def test_a_run_with_a_fault_of_each_kind_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.faults", "--short", "--json", str(tmp_path / "faults.json")]
    done = run(command, root, timeout_s=500)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "faults.json").read_text())["faults"]
    assert len(found) >= 6  # without a full disk where no file system can be mounted
    assert [one for one in found if not one["recovered"] or not one["equal"] or one["wrong"]] == []
    assert [one["lost"] for one in found if one["kind"] in ("SIGTERM", "W&B server gone")] == [0, 0]
