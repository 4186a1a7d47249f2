"""The files of an outcome: results.csv, report.md, report.html and the pictures, in the folder of the grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, fields
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from mixdist.arguments import written
from mixdist.files import write_text
from mixdist.locks import locked
from mixdist.paper.cells import Cell
from mixdist.paper.figure import draw
from mixdist.paper.outcome import Entry, Outcome
from mixdist.paper.table import Text, text_of
from mixdist.report.markdown import plain, table
from mixdist.report.page import figure_card, style_sheet
from mixdist.report.picture import Picture
from mixdist.report.sections import html_table
from mixdist.report.table import seconds

PAPER_COLUMNS = (  # as its results.csv has them
    "table",
    "backbone",
    "ssl_dataset",
    "sl_dataset",
    "method",
    "variant",
    "fraction",
    "epochs",
    "loss_ratio",
    "mix_ratio",
    "accuracy",
    "latency_s",
)
OWN_COLUMNS = (
    "seed",
    "state",
    "paper_accuracy",
    "paper_latency_s",
    "trained_fraction",
    "trained_epochs",
    "scale",
    "changes",
    "layout",
    "device",
    "world_size",
    "run",
    "notes",
)


def write_outcome(read: Callable[[], Outcome], place: Path) -> Text:
    """Read what came out of a grid and write all files; return the table.

    Raises:
        UserError: a file cannot be written.
    """
    with writing(place):
        outcome = read()
        text = text_of(outcome)
        write_report(place, text, long_form(outcome), draw(outcome), outcome.entries)
    return text


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Hold the lock on a grid's outputs: of several processes, the last to write has read what the others wrote before.

    Raises:
        UserError: a file cannot be written.
    """
    with written("--out", place), ExitStack() as held:
        place.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # a file system without locks
            held.enter_context(locked(place / "report.lock"))
        yield


def write_report(place: Path, text: Text, csv_text: str, pictures: list[Picture], entries: Sequence[Entry]) -> None:
    """Write results.csv, report.md, report.html, and each picture as a file of its own."""
    write_text(place / "results.csv", csv_text)
    write_text(place / "report.md", markdown(text, pictures))
    write_text(place / "report.html", page(text, pictures, entries))
    for picture in pictures:
        picture.save(place)


def long_form(outcome: Outcome) -> str:
    """Return a line a run: the paper's columns with our accuracy and latency, then the paper's and how we ran."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*PAPER_COLUMNS, *OWN_COLUMNS])
    writer.writerows(_line(row.cell, entry) for row in outcome.rows for entry in row.entries)
    return file.getvalue()


def _line(cell: Cell, entry: Entry) -> list[object]:
    about, trained, result = entry.about, entry.about["trained"], entry.result
    setting = astuple(cell)[: len(fields(Cell)) - 2]
    ours = [None, None] if result is None else [round(result.accuracy, 4), round(result.latency_s, 3)]
    hardware = [None, None] if result is None else [result.device, result.world_size]
    return [
        *(cell.table.removeprefix("table"), *setting[1:], *ours),
        *(about["seed"], entry.state, cell.accuracy, cell.latency_s, trained["fraction"], trained["epochs"]),
        *(about["scale"], entry.changes, entry.layout, *hardware, entry.folder.name, "; ".join(about["notes"])),
    ]


def markdown(text: Text, pictures: Sequence[Picture] = ()) -> str:
    """Return the document, with a final newline; it shows the pictures that lie beside it."""
    lines = [f"# {plain(text.title)}", "", *(f"**{plain(mark)}.**\n" for mark in text.marks), plain(text.shared), ""]
    lines += table([plain(heading) for heading in text.headings], text.rows)
    lines += ["", *(f"* {plain(note)}" for note in text.notes)]
    for picture in pictures:
        lines += ["", f"![{plain(picture.title)}]({picture.name}.svg)"]
    return "\n".join(lines) + "\n"


def page(text: Text, pictures: list[Picture], entries: Sequence[Entry]) -> str:
    """Return the page: self-contained, no script, no date; the same runs give the same bytes."""
    template = files("mixdist.paper").joinpath("page.html").read_text(encoding="utf-8")
    notes = "".join(f"<li>{escape(note)}</li>" for note in text.notes)
    cards = "\n".join(map(figure_card, pictures))
    return Template(template).substitute(
        title=escape(text.title),
        style=style_sheet(),
        shared=escape(text.shared),
        marks="\n".join(f'<p class="headline">{escape(mark)}.</p>' for mark in text.marks),
        table=html_table([*map(escape, text.headings)], [[*map(escape, row)] for row in text.rows]),
        notes=f'<ul class="notes">{notes}</ul>',
        figures=f'<h2>Figures</h2>\n<div class="grid">\n{cards}\n</div>' if pictures else "",
        runs=html_table(["run", "seed", "accuracy %", "training s", "wall s"], [*map(_run, entries)]),
    )


def _run(entry: Entry) -> list[str]:
    result = entry.result
    numbers = ["–"] * 3
    if result is not None:
        numbers = [f"{result.accuracy:.2f}", seconds(result.latency_s), seconds(result.wall_s)]
    return [escape(entry.folder.name), str(entry.about["seed"]), *numbers]
