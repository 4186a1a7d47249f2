"""What was measured, as medians, ratios, a table and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.loader_child import Measured
from benchmarks.loader_rows import ROWS, Row
from benchmarks.machine import measured_on

DISTURBED = 0.1  # share of the cores' time that others took: a stretch above it counts only where too few are below
ENOUGH = 2  # undisturbed stretches
BASES = ("webdataset_fast", "limit")  # the rows that the table sets all others against
HEADLINE = "decode_1"  # the case whose figures stand on top of the JSON


@dataclass(frozen=True)
class Case:
    """A task on given cores."""

    task: str
    cores: list[int]

    @property
    def name(self) -> str:
        """The task and the number of cores: decode_1."""
        return f"{self.task}_{len(self.cores)}"


@dataclass(frozen=True)
class Figure:
    """The speed of one row in one case."""

    images_per_s: float  #: median
    low: float
    high: float
    stretches: int
    disturbed: bool  #: others took the cores too often to leave such stretches out
    peak_rss_mb: float


@dataclass
class Results:
    """All measurements so far."""

    settings: dict[str, Any]
    missing: dict[str, str]  #: row -> why it cannot be measured here
    measured: dict[str, dict[str, list[Measured]]] = field(default_factory=dict)  #: case -> row -> a round each
    failed: dict[str, dict[str, str]] = field(default_factory=dict)  #: case -> row -> how its measurement failed

    def add(self, case: Case, row: Row, measured: Measured) -> None:
        """Add a round of a row."""
        self.measured.setdefault(case.name, {}).setdefault(row.name, []).append(measured)

    def fail(self, case: Case, row: Row, why: str) -> None:
        """Give a row up for this case, whatever earlier rounds measured."""
        self.failed.setdefault(case.name, {})[row.name] = why
        self.measured.setdefault(case.name, {}).pop(row.name, None)

    def absent(self, case: Case) -> dict[str, str]:
        """Return why rows have no figures in a case."""
        return self.missing | self.failed.get(case.name, {})

    def figures(self, case: str) -> dict[str, Figure]:
        """Return the figures of a case by row."""
        return {name: _figure(rounds) for name, rounds in self.measured.get(case, {}).items()}


def _figure(rounds: list[Measured]) -> Figure:
    pairs = [pair for one in rounds for pair in zip(one.images_per_s, one.others, strict=True)]
    calm = [speed for speed, others in pairs if others <= DISTURBED]
    speeds = calm if len(calm) >= ENOUGH else [speed for speed, _ in pairs]
    return Figure(
        images_per_s=round(median(speeds), 1),
        low=round(min(speeds), 1),
        high=round(max(speeds), 1),
        stretches=len(speeds),
        disturbed=len(calm) < ENOUGH,
        peak_rss_mb=round(max(one.peak_rss_mb for one in rounds), 1),
    )


def print_table(case: Case, results: Results, console: Console) -> None:
    """Print a case: fastest first, what is missing last, and what the marks mean."""
    figures = results.figures(case.name)
    cores = "1 core" if len(case.cores) == 1 else f"{len(case.cores)} cores"
    table = Table(title=f"{case.task}, {cores}: images/s", title_justify="left")
    bases = [base for base in BASES if base in figures]
    for column in ("", "median", "low - high", *(f"x {base}" for base in bases), "RSS MB"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    notes, differs = [], {row.name: row.differs.get(case.task) for row in ROWS}
    for name, figure in sorted(figures.items(), key=lambda item: -item[1].images_per_s):
        if note := differs[name]:
            notes.append(f"* {name}: {note}")
        label = name + (" *" if note else "") + (" ~" if figure.disturbed else "")
        ratios = [f"{_ratio(figures, name, base):.2f}" for base in bases]
        spread = f"{figure.low:,.0f} - {figure.high:,.0f}"
        style = "bold" if name == "mixdist" else ""
        table.add_row(label, f"{figure.images_per_s:,.0f}", spread, *ratios, f"{figure.peak_rss_mb:,.0f}", style=style)
    absent = results.absent(case)
    notes += [f"{row.name}: {absent[row.name]}" for row in ROWS if row.name in absent and case.task in row.tasks]
    if any(figure.disturbed for figure in figures.values()):
        notes.append(f"~ other processes took over {DISTURBED:.0%} of the cores: measure again on a quiet machine")
    console.print(table)
    for note in notes:
        console.print(escape(note), style="dim", highlight=False)


def to_json(results: Results) -> dict[str, Any]:
    """Return the whole run; on top the speeds of one-core uint8 batches by row, all cases under `tasks`."""
    tasks = {case: _case_json(case, results) for case in results.measured}
    headline = tasks.get(HEADLINE, {})
    return {
        **measured_on(),
        "settings": results.settings,
        "images_per_s": headline.get("images_per_s", {}),
        "peak_rss_mb": headline.get("peak_rss_mb", {}),
        "ratios": {case: _mixdist_ratios(results.figures(case)) for case in tasks} | _scaling(results),
        "tasks": tasks,
        "missing": results.missing,
    }


def _case_json(case: str, results: Results) -> dict[str, Any]:
    figures = results.figures(case)
    task = case.rpartition("_")[0]
    by_row = {
        key: {name: getattr(figure, key) for name, figure in figures.items()}
        for key in ("images_per_s", "low", "high", "stretches", "disturbed", "peak_rss_mb")
    }
    differs = {row.name: row.differs[task] for row in ROWS if row.name in figures and task in row.differs}
    return by_row | {"less_work": differs, "failed": results.failed.get(case, {})}


def _mixdist_ratios(figures: dict[str, Figure]) -> dict[str, float]:
    others = [name for name in figures if name != "mixdist"] if "mixdist" in figures else []
    return {f"mixdist/{name}": round(_ratio(figures, "mixdist", name), 3) for name in others}


def _scaling(results: Results) -> dict[str, dict[str, float]]:
    """Two cores over one, by task and row."""
    found = {}
    for case in results.measured:
        one, two = results.figures(case), results.figures(case.removesuffix("_1") + "_2")
        if case.endswith("_1") and two:
            both = {name: two[name].images_per_s / one[name].images_per_s for name in one if name in two}
            found[f"{case.removesuffix('_1')}: 2 cores/1 core"] = {
                name: round(value, 3) for name, value in both.items()
            }
    return found


def _ratio(figures: dict[str, Figure], name: str, base: str) -> float:
    return figures[name].images_per_s / figures[base].images_per_s
