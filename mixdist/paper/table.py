"""Ours, the paper's and the difference as text: the table of the console, Markdown and page, and what to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mixdist.paper.outcome import Entry, Outcome, Row, Runs
from mixdist.report.table import seconds

SEEDS = 4  # of the paper
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
    return Text(title, tuple(_marks(outcome)), ", ".join(shared), headings, rows, tuple(_notes(outcome)))


def _measured(outcome: Outcome) -> list[tuple[str, Callable[[Row], str]]]:
    columns: list[tuple[str, Callable[[Row], str]]] = []
    if any(_scale(row) != 1 for row in outcome.rows):
        columns += [("trained on", _trained)]
    columns += [
        ("seeds", lambda row: str(len(row.results))),
        ("accuracy %, ours", accuracy_of),
        ("paper", lambda row: _number(row.cell.accuracy, "{:.2f}")),
        ("difference", lambda row: _number(row.difference, "{:+.2f}")),
        ("training s, ours", lambda row: NOTHING if row.latency is None else seconds(row.latency.mean)),
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


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _scale(row: Row) -> float:
    return float(row.entries[0].about["scale"]) if row.entries else 1.0


def _trained(row: Row) -> str:
    if not row.entries:
        return NOTHING
    trained = row.entries[0].about["trained"]
    return f"{100 * trained['fraction']:.3g} %, {trained['epochs']} epochs"


def _marks(outcome: Outcome) -> list[str]:
    """Say what makes these runs others than the paper's: their scale, changed settings, smaller sets."""
    about = [entry.about for entry in outcome.entries]
    scales = sorted({one["scale"] for one in about if one["scale"] != 1})
    said = [
        f"Scaled to {scale:g} by --scale: epochs and data are shortened, so this is not the paper's experiment"
        for scale in scales
    ]
    said += [
        f"Settings other than the paper's: {each}" for each in dict.fromkeys(e.changes for e in outcome.entries) if each
    ]
    return said + list(dict.fromkeys(note for one in about for note in one["notes"]))


def _notes(outcome: Outcome) -> list[str]:
    said = []
    if any(outcome.baseline(row) for row in outcome.rows):
        said.append(
            "Speed-up: training time of ssl+sl in the same setting, on the same hardware, divided by this one's."
        )
    hardware = sorted({f"{size} × {device}" for row in outcome.rows for size, device in row.hardware})
    if hardware:
        said.append(
            f"Training time is without evaluation, checkpoints and set-up; ours on {', '.join(hardware)}, the paper's "
            f"on one RTX 6000 Ada: hold the speed-ups against each other, not the seconds."
        )
    counts = {len(row.results) for row in outcome.rows}
    if counts != {SEEDS}:
        spread = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        said.append(f"Seeds of a row: {spread}; the paper has {SEEDS}. ± is the sample standard deviation over them.")
    return said + state_notes(outcome.entries)


def state_notes(entries: Sequence[Entry]) -> list[str]:
    """Say which runs failed, and why, and how many have not finished."""
    said = [f"Failed: {entry.folder.name}: {entry.reason}" for entry in entries if entry.reason is not None]
    waiting = sum(entry.state == "not finished" for entry in entries)
    return said + ([f"Not finished yet: {waiting} run{'' if waiting == 1 else 's'}."] if waiting else [])
