"""The comparison as Markdown: the sentence, the table and the notes of the page."""

from __future__ import annotations

from mixdist.report import paired, scaling
from mixdist.report.collect import Found
from mixdist.report.paired import comparisons
from mixdist.report.summarise import Group
from mixdist.report.table import HEADINGS, rows
from mixdist.report.words import headline, notes


def markdown(groups: list[Group], found: Found) -> str:
    """Return the document, with a final newline."""
    lines = ["# Run comparison", "", plain(headline(groups)), ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|---{'|---:' * (len(HEADINGS) - 1)}|"]
    lines += [f"| {' | '.join(plain(cell) for cell in row.cells)} |" for row in rows(groups)]
    if pairs := comparisons(groups):
        lines += ["", "## Arm against arm", ""]
        lines += [f"| {' | '.join(paired.HEADINGS)} |", f"|---|---{'|---:' * (len(paired.HEADINGS) - 2)}|"]
        lines += [f"| {' | '.join(plain(cell) for cell in pair.cells)} |" for pair in pairs]
        lines += ["", paired.CAVEAT]
    if scaled := scaling.scaling(groups):
        lines += ["", "## Over ranks", ""]
        lines += [f"| {' | '.join(scaling.HEADINGS)} |", f"|---{'|---:' * (len(scaling.HEADINGS) - 1)}|"]
        lines += [f"| {' | '.join(plain(cell) for cell in one.cells)} |" for one in scaled]
        lines += ["", scaling.CAVEAT]
    remarks = notes(groups) + [f"Left out: {entry.folder}: {entry.reason}." for entry in found.left_out]
    if remarks:
        lines += ["", *(f"* {plain(remark)}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Escape what Markdown would read as markup or as the end of a cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "|*_`[]\\" else letter for letter in text)
