"""What came of a label budget: its points, as a table and a line a run."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from mixdist.paper.jobs import cells_below
from mixdist.paper.outcome import Entry, entry_of
from mixdist.paper.table import NOTHING, Text, state_notes
from mixdist.report.run import Result
from mixdist.report.summarise import ARMS, Spread
from mixdist.report.table import seconds

COLUMNS = (
    "share",
    "labelled",
    "arm",
    "seed",
    "state",
    "accuracy",
    "latency_s",
    "changes",
    "device",
    "world_size",
    "run",
)


@dataclass(frozen=True)
class Point:
    """The runs of one arm on one share of the labels."""

    share: float
    arm: str
    entries: tuple[Entry, ...]  #: by seed

    @property
    def results(self) -> list[Result]:
        """Return those of the finished runs."""
        return [entry.result for entry in self.entries if entry.result is not None]

    @property
    def accuracy(self) -> Spread | None:
        """Top-1 over seeds, percent; None before a run has finished."""
        return Spread.of(result.accuracy for result in self.results) if self.results else None


def read_budget(place: Path) -> list[Point]:
    """Read the runs of a curve, whoever trained them; by share, then in the order of the arms."""
    found: dict[tuple[float, str], list[Entry]] = {}
    for folder, file in cells_below(place):
        about = file["about"]
        found.setdefault((about["share"], about["arm"]), []).append(entry_of(folder, about))
    keys = sorted(found, key=lambda key: (key[0], ARMS.index(key[1])))
    return [Point(*key, tuple(sorted(found[key], key=lambda entry: int(entry.about["seed"])))) for key in keys]


def text_of(points: list[Point], place: Path) -> Text:
    """Write the points as text."""
    entries = [entry for point in points for entry in point.entries]
    changes = dict.fromkeys(entry.changes for entry in entries if entry.changes)
    return Text(
        title=f"{place.name}: accuracy over the share of labels",
        marks=(),
        shared=" ".join(["SSL sees all images", *(["with", *changes] if changes else [])]),
        headings=("labels", "labelled images", "arm", "seeds", "accuracy %", "training s"),
        rows=tuple(_row(point) for point in points),
        notes=(
            "Mean ± sample standard deviation over seeds; a seed also draws which images keep their label, and the "
            "labelled images of a share are among those of every larger one.",
            *state_notes(entries),
        ),
    )


def _row(point: Point) -> tuple[str, ...]:
    results, accuracy = point.results, point.accuracy
    if accuracy is None:
        what = "failed" if any(entry.reason for entry in point.entries) else NOTHING
        return (f"{100 * point.share:g} %", NOTHING, point.arm, "0", what, NOTHING)
    spread = "" if accuracy.deviation is None else f" ± {accuracy.deviation:.2f}"
    time = Spread.of(result.latency_s for result in results).mean
    labelled, count = str(results[0].labelled), str(len(results))
    return (f"{100 * point.share:g} %", labelled, point.arm, count, f"{accuracy.mean:.2f}{spread}", seconds(time))


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
            writer.writerow([*head, *ours, entry.changes, *hardware, entry.folder.name])
    return file.getvalue()


def curves_of(points: list[Point]) -> dict[str, list[tuple[int, Spread]]]:
    """Return (labelled images, accuracy) of the points that have a finished run, by arm."""
    found: dict[str, list[tuple[int, Spread]]] = {}
    for point in points:
        if point.accuracy is not None:
            found.setdefault(point.arm, []).append((point.results[0].labelled, point.accuracy))
    return found
