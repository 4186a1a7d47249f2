"""The comparison as CSV for other programs: a row a group, full precision, settings that differ as columns."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any

from mixdist.report.published import published
from mixdist.report.summarise import Group, differing, show, speed_up

COLUMNS = (
    *("arm", "seeds", "labelled", "fraction", "device", "world_size", "accuracy_mean", "accuracy_deviation"),
    *("latency_s_mean", "latency_s_deviation", "speed_up", "images_per_s", "device_hours", "paper_accuracy"),
    "paper_speed_up",
)


def csv_table(groups: list[Group]) -> str:
    """Return the table; accuracies in percent, times in seconds, empty where there is no value."""
    keys = [key for key in differing([group.settings for group in groups]) if key not in COLUMNS and "." in key]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *keys])
    for group in groups:
        values = _row(group, groups)
        writer.writerow([values[name] for name in COLUMNS] + [_setting(group, key) for key in keys])
    return text.getvalue()


def _row(group: Group, groups: list[Group]) -> dict[str, Any]:
    result, paper = group.runs[0].result, published(group)
    return {
        "arm": group.arm,
        "seeds": " ".join(str(run.result.seed) for run in group.runs),
        "labelled": result.labelled,
        "fraction": result.fraction,
        "device": result.device,
        "world_size": result.world_size,
        "accuracy_mean": group.accuracy.mean,
        "accuracy_deviation": group.accuracy.deviation,
        "latency_s_mean": group.latency.mean,
        "latency_s_deviation": group.latency.deviation,
        "speed_up": speed_up(group, groups),
        "images_per_s": group.images_per_s,
        "device_hours": group.device_hours,
        "paper_accuracy": paper.accuracy if paper else None,
        "paper_speed_up": paper.speed_up if paper else None,
    }


def _setting(group: Group, key: str) -> str:
    return show(group.settings[key]) if key in group.settings else ""
