"""The comparison as Markdown: the sentence, the table and the notes of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mixdist.report import paired, scaling
from mixdist.report.collect import Found
from mixdist.report.paired import comparisons
from mixdist.report.summarise import Group
from mixdist.report.table import HEADINGS, rows
from mixdist.report.words import headline, notes


def markdown(groups: list[Group], found: Found) -> str:
    """Return the document, with a final newline."""
    lines = ["# Run comparison", "", plain(headline(groups)), ""]
    lines += table(HEADINGS, (row.cells for row in rows(groups)))
    if pairs := comparisons(groups):
        lines += ["", "## Arm against arm", ""]
        lines += table(paired.HEADINGS, (pair.cells for pair in pairs), words=2)
        lines += ["", paired.CAVEAT]
    if scaled := scaling.scaling(groups):
        lines += ["", "## Over ranks", ""]
        lines += table(scaling.HEADINGS, (one.cells for one in scaled))
        lines += ["", scaling.CAVEAT]
    remarks = notes(groups) + [f"Left out: {entry.folder}: {entry.reason}." for entry in found.left_out]
    if remarks:
        lines += ["", *(f"* {plain(remark)}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """Return the lines of a table, cells escaped; the first ``words`` columns to the left, the others to the right."""
    lines = [f"| {' | '.join(headings)} |", f"{'|---' * words}{'|---:' * (len(headings) - words)}|"]
    return lines + [f"| {' | '.join(map(plain, row))} |" for row in rows]


def plain(text: str) -> str:
    """Escape what Markdown would read as markup or as the end of a cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "|*_`[]\\" else letter for letter in text)
