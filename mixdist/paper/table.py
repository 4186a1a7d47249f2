"""Ours, the paper's and the difference as text: the table of the console, Markdown and page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mixdist.paper.notes import marks_of, notes_of
from mixdist.paper.outcome import Entry, Outcome, Row, Runs
from mixdist.report.table import seconds

NOTHING = "–"

_FIELDS: tuple[tuple[str, Callable[[Row], str]], ...] = (  # shown where the rows differ in them
    ("backbone", lambda row: row.cell.backbone),
    ("D_ssl", lambda row: row.cell.ssl_dataset),
    ("D_sl", lambda row: row.cell.sl_dataset),
    ("data", lambda row: f"{100 * row.cell.fraction:g} %"),
    ("epochs", lambda row: str(row.cell.epochs)),
    ("α", lambda row: f"{row.cell.loss_ratio:g}"),
    ("ρ", lambda row: f"{row.cell.mix_ratio:g}"),
    ("variant", lambda row: row.cell.variant or NOTHING),
)


@dataclass(frozen=True)
class Text:
    """The table of an outcome."""

    title: str
    marks: tuple[str, ...]  #: what makes the runs others than the paper's; printed above everything
    shared: str  #: what all rows have in common
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def text_of(outcome: Outcome) -> Text:
    """Write an outcome as text."""
    varied = [(name, show) for name, show in _FIELDS if len({show(row) for row in outcome.rows}) > 1]
    shared = [f"{name} {show(outcome.rows[0])}" for name, show in _FIELDS if (name, show) not in varied]
    measured = _measured(outcome)
    headings = ("arm", *(name for name, _ in varied), *(name for name, _ in measured))
    rows = tuple(
        (row.cell.arm, *(show(row) for _, show in varied), *(show(row) for _, show in measured)) for row in outcome.rows
    )
    title = f"{outcome.grid.name}: {outcome.grid.title}"
    title += "".join(f", scaled to {scale:g}" for scale in outcome.scales)
    return Text(title, tuple(marks_of(outcome)), ", ".join(shared), headings, rows, tuple(notes_of(outcome)))


def _measured(outcome: Outcome) -> list[tuple[str, Callable[[Row], str]]]:
    columns: list[tuple[str, Callable[[Row], str]]] = []
    if any(_shortened(row) for row in outcome.rows):
        columns += [("trained on", _trained)]
    columns += [
        ("seeds", lambda row: str(len(row.results))),
        ("accuracy %, ours", accuracy_of),
        ("paper", lambda row: _number(row.cell.accuracy, "{:.2f}")),
        ("difference, points", lambda row: _number(row.difference, "{:+.2f}")),
        ("training s, ours", time_of),
    ]
    if any(row.cell.latency_s for row in outcome.rows):
        columns += [("paper", lambda row: NOTHING if row.cell.latency_s is None else seconds(row.cell.latency_s))]
    if any(outcome.baseline(row) for row in outcome.rows):
        columns += [("speed-up, ours", lambda row: _number(outcome.speed_ups(row)[0], "{:.2f}×"))]
    if any(outcome.speed_ups(row)[1] for row in outcome.rows):
        columns += [("paper", lambda row: _number(outcome.speed_ups(row)[1], "{:.2f}×"))]
    return columns


def accuracy_of(runs: Runs) -> str:
    """Return mean ± deviation over the finished runs, or that there is none."""
    if runs.accuracy is None:
        return "failed" if any(entry.reason for entry in runs.entries) else NOTHING
    spread = "" if runs.accuracy.deviation is None else f" ± {runs.accuracy.deviation:.2f}"
    return f"{runs.accuracy.mean:.2f}{spread}"


def time_of(runs: Runs) -> str:
    """Return mean ± deviation of the training seconds over the finished runs."""
    if runs.latency is None:
        return NOTHING
    spread = "" if runs.latency.deviation is None else f" ± {seconds(runs.latency.deviation)}"
    return f"{seconds(runs.latency.mean)}{spread}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _shortened(row: Row) -> bool:
    """Say whether the runs are trained on other data or epochs than the paper's, or with another ρ."""
    as_paper = (row.cell.fraction, str(row.cell.epochs), row.cell.mix_ratio)
    return any(_as_trained(row, entry) != as_paper for entry in row.entries)


def _as_trained(row: Row, entry: Entry) -> tuple[float, str, float]:
    trained = entry.about["trained"]
    return trained["fraction"], str(trained["epochs"]), trained.get("mix_ratio", row.cell.mix_ratio)


def _trained(row: Row) -> str:
    if not row.entries:
        return NOTHING
    fraction, epochs, ratio = _as_trained(row, row.entries[0])
    other = f", ρ {ratio:g}" if row.cell.arm == "mixtraining" and ratio != row.cell.mix_ratio else ""
    return f"{100 * fraction:.3g} %, {epochs} epochs{other}"
