"""What came of a grid, read from the folders of its runs, whoever trained them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixdist.errors import UserError
from mixdist.paper.cells import Cell
from mixdist.paper.grid import Grid
from mixdist.paper.jobs import FAILED, cells_below, result_folder
from mixdist.report.run import Result, read_run
from mixdist.report.summarise import Spread


@dataclass(frozen=True)
class Entry:
    """A run of a grid: finished where it has a result, failed where it has a reason, else not finished yet."""

    folder: Path
    about: dict[str, Any]  #: what its grid calls it
    result: Result | None
    reason: str | None  #: of the failure

    @property
    def state(self) -> str:
        """How far it is, in words."""
        return "finished" if self.result else "failed" if self.reason else "not finished"

    @property
    def changes(self) -> str:
        """The user's settings that change what is trained, as on a command line."""
        return _as_flags(self.about["changes"])

    @property
    def layout(self) -> str:
        """The user's settings that change its training time alone, as on a command line."""
        return _as_flags(self.about.get("layout", {}))  # the first cells had none


@dataclass(frozen=True)
class Runs:
    """Runs that differ in their seed alone."""

    entries: tuple[Entry, ...]  #: by seed

    @property
    def results(self) -> list[Result]:
        """Return those of the finished runs."""
        return [entry.result for entry in self.entries if entry.result is not None]

    @property
    def accuracy(self) -> Spread | None:
        """Top-1 over seeds, percent; None before a run has finished."""
        return Spread.of(result.accuracy for result in self.results) if self.results else None

    @property
    def latency(self) -> Spread | None:
        """Training seconds over seeds; None before a run has finished."""
        return Spread.of(result.latency_s for result in self.results) if self.results else None


@dataclass(frozen=True)
class Row(Runs):
    """A cell with all of its runs."""

    cell: Cell

    @property
    def machines(self) -> set[tuple[int, str, str]]:
        """Processes, device and layout of the runs: what their training times have to share to be compared."""
        finished = [(entry.result, entry.layout) for entry in self.entries if entry.result is not None]
        return {(result.world_size, result.device, layout) for result, layout in finished}

    @property
    def difference(self) -> float | None:
        """Ours less the paper's accuracy, in points."""
        ours, paper = self.accuracy, self.cell.accuracy
        return None if ours is None or paper is None else ours.mean - paper


@dataclass(frozen=True)
class Outcome:
    """The rows of a grid of which something is there, in the grid's order."""

    grid: Grid
    rows: tuple[Row, ...]

    @property
    def entries(self) -> list[Entry]:
        """All runs."""
        return [entry for row in self.rows for entry in row.entries]

    @property
    def scales(self) -> list[float]:
        """What the runs were shortened to, where they were."""
        return scales_of(self.entries)

    def baseline(self, row: Row) -> Row | None:
        """Return the row `ssl+sl` of the same setting, None where the table has none."""
        want = replace(row.cell, arm="ssl+sl", accuracy=None, latency_s=None)
        same = [other for other in self.rows if replace(other.cell, accuracy=None, latency_s=None) == want]
        return same[0] if same else None

    def speed_ups(self, row: Row) -> tuple[float | None, float | None]:
        """Return latency(ssl+sl) / latency(row): ours, where both ran in one way, and the paper's."""
        base = self.baseline(row)
        if base is None:
            return None, None
        ours = paper = None
        if row.latency and base.latency and row.machines == base.machines and len(row.machines) == 1:
            ours = base.latency.mean / row.latency.mean
        if row.cell.latency_s and base.cell.latency_s:
            paper = base.cell.latency_s / row.cell.latency_s
        return ours, paper


def read_outcome(grid: Grid, place: Path, chosen: Iterable[Cell]) -> Outcome:
    """Read the runs of a grid.

    Args:
        grid: with all of its cells.
        place: folder of its runs.
        chosen: cells that get a row even where no run is there.
    """
    entries: dict[Cell, list[Entry]] = {cell: [] for cell in chosen}
    for folder, file in cells_below(place):
        cell = Cell(**file["about"]["cell"])
        entries.setdefault(cell, []).append(entry_of(folder, file["about"]))
    rows = (Row(by_seed(entries[cell]), cell) for cell in grid.cells if cell in entries)
    return Outcome(grid, tuple(rows))


def scales_of(entries: Iterable[Entry]) -> list[float]:
    """Return what runs were shortened to, where they were, each once."""
    return sorted({entry.about["scale"] for entry in entries} - {1})


def by_seed(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return runs in the order of their seeds."""
    return tuple(sorted(entries, key=lambda entry: int(entry.about["seed"])))


def _as_flags(settings: Mapping[str, str]) -> str:
    return " ".join(f"--{key} {value}" for key, value in settings.items())


def entry_of(folder: Path, about: dict[str, Any]) -> Entry:
    """Read what came of the run in a folder."""
    finished = result_folder(folder)
    if finished is not None:
        try:
            return Entry(folder, about, read_run(finished).result, None)
        except UserError as error:
            return Entry(folder, about, None, str(error))
    try:
        reason = str(json.loads((folder / FAILED).read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        reason = None
    return Entry(folder, about, None, reason)
