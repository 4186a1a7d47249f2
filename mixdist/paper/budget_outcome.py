"""What came of a label budget: its points, as a table and a line a run."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixdist.paper.jobs import cells_below
from mixdist.paper.notes import state_notes
from mixdist.paper.outcome import Entry, Runs, by_seed, entry_of
from mixdist.paper.table import NOTHING, Text, accuracy_of, time_of
from mixdist.report.summarise import ARMS, Spread

COLUMNS = (
    "share",
    "labelled",
    "arm",
    "seed",
    "state",
    "accuracy",
    "latency_s",
    "changes",
    "layout",
    "device",
    "world_size",
    "run",
)


@dataclass(frozen=True)
class Point(Runs):
    """The runs of one arm on one share of the labels."""

    share: float
    arm: str


def read_budget(place: Path) -> list[Point]:
    """Read the runs of a curve, whoever trained them; by share, then in the order of the arms."""
    found: dict[tuple[float, str], list[Entry]] = {}
    for folder, file in cells_below(place):
        about = file["about"]
        found.setdefault((about["share"], about["arm"]), []).append(entry_of(folder, about))
    keys = sorted(found, key=lambda key: (key[0], ARMS.index(key[1])))
    return [Point(by_seed(found[key]), *key) for key in keys]


def text_of(points: list[Point], place: Path) -> Text:
    """Write the points as text."""
    entries = [entry for point in points for entry in point.entries]
    kept = [entry for entry in entries if entry.reason is None] or entries
    told = [entry for entry in kept if entry.about["arm"] != "sl"] or kept  # which has no epochs of SSL to tell
    trained = dict.fromkeys(_trained(entry.about["trained"]) for entry in told if "trained" in entry.about)
    changes = dict.fromkeys(entry.changes for entry in kept if entry.changes)
    return Text(
        title=f"{place.name}: accuracy over the share of labels",
        marks=(),
        shared="; ".join([*trained, " ".join(["SSL sees all images", *(["with", *changes] if changes else [])])]),
        headings=("labels", "labelled images", "arm", "seeds", "accuracy %", "training s"),
        rows=tuple(_row(point) for point in points),
        notes=(
            "Mean ± sample standard deviation over seeds; a seed also draws which images keep their label, and the "
            "labelled images of a share are among those of every larger one.",
            *state_notes(entries),
        ),
    )


def _trained(trained: dict[str, Any]) -> str:
    return f"backbone {trained['backbone']}, epochs {trained['epochs']}"


def _row(point: Point) -> tuple[str, ...]:
    labelled = str(point.results[0].labelled) if point.results else NOTHING
    return (
        f"{100 * point.share:g} %",
        labelled,
        point.arm,
        str(len(point.results)),
        accuracy_of(point),
        time_of(point),
    )


def long_form(points: list[Point]) -> str:
    """Return a line a run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        for entry in point.entries:
            result = entry.result
            ours = [None] * 2 if result is None else [round(result.accuracy, 4), round(result.latency_s, 3)]
            hardware = [None] * 2 if result is None else [result.device, result.world_size]
            labelled = None if result is None else result.labelled
            head = [point.share, labelled, point.arm, entry.about["seed"], entry.state]
            writer.writerow([*head, *ours, entry.changes, entry.layout, *hardware, entry.folder.name])
    return file.getvalue()


def curves_of(points: list[Point]) -> dict[str, list[tuple[int, Spread]]]:
    """Return (labelled images, accuracy) of the points that have a finished run, by arm."""
    found: dict[str, list[tuple[int, Spread]]] = {}
    for point in points:
        if point.accuracy is not None:
            found.setdefault(point.arm, []).append((point.results[0].labelled, point.accuracy))
    return found
