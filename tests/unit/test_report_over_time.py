"""The figure of throughput through training has a panel for each share of time that a run has spent on feeding."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from fake_runs import write_run

from mixdist.report.collect import collect
from mixdist.report.marks import marks
from mixdist.report.over_time import over_time
from mixdist.report.picture import Picture
from mixdist.report.summarise import group_runs
from mixdist.report.svg import style


def with_shares(folder: Path, **shares: float) -> Path:
    """Write a run whose records have these fields."""
    metrics = write_run(folder) / "metrics.jsonl"
    lines = [json.loads(line) | shares for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def picture(*folders: Path) -> Picture:
    groups = group_runs(collect([str(folder) for folder in folders]).runs)
    with style():
        (found,) = over_time(groups, marks(groups))
    return found


@pytest.mark.parametrize(
    ("shares", "said", "unsaid"),
    [
        ({}, ["waiting at most"], ["workers busy", "copies"]),  # of an earlier mixdist
        ({"decode": 0.0, "host_to_device": 0.0}, ["waiting at most"], ["workers busy", "copies"]),
        ({"decode": 0.915, "host_to_device": 0.0}, ["waiting at most", "workers busy at most 92 %"], ["copies"]),
        ({"decode": 0.5, "host_to_device": 0.21}, ["workers busy at most 50 %, copies at most 21 %"], []),
    ],
)
def test_decoding_and_copies_are_drawn_where_there_were_any(
    tmp_path: Path, shares: dict[str, Any], said: list[str], unsaid: list[str]
) -> None:
    label = ET.fromstring(picture(with_shares(tmp_path / "run", **shares)).alone).get("aria-label") or ""
    assert all(part in label for part in said)
    assert not any(part in label for part in unsaid)
