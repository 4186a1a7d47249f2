"""`mixdist compare`: run folders -> the table on the console and, with --out, the page and its Markdown twin."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixdist import files
from mixdist.arguments import Parser
from mixdist.errors import UserError
from mixdist.report.collect import Found, collect
from mixdist.report.markdown import markdown
from mixdist.report.summarise import ARMS, Group, group_runs
from mixdist.report.table import HEADINGS, rows
from mixdist.report.words import headline, notes

_STYLE = dict(zip(ARMS, ("green", "blue", "red"), strict=True))


def main(argv: Sequence[str]) -> int:
    """Compare the runs that the command line names; return the exit code.

    Raises:
        UserError: a path without a run, no finished run, or an --out that cannot be written.
    """
    options = _parse(argv)
    found = collect(options.runs)
    groups = group_runs(found.runs)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for entry in found.left_out:
        errors.print(f"warning: {entry.folder} is left out: {entry.reason}", style="yellow", markup=False)
    _print_table(groups, Console(highlight=False))
    if options.out is not None:
        _write(options.out, groups, found)
        errors.print(f"wrote {options.out} and {options.out.with_suffix('.md')}", markup=False)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "mixdist compare", "Compare finished runs: accuracy over seeds, training time, speed-up over ssl+sl."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, folder that holds runs (3 levels), or quoted pattern"
    )
    parser.add_argument("--out", type=Path, metavar="REPORT.html", help="write a page, and REPORT.md beside it")
    options = parser.parse_args(argv)
    if options.out is not None and options.out.suffix != ".html":
        raise UserError(f"--out {options.out} should end in .html; the Markdown goes beside it")
    return options


def _print_table(groups: list[Group], console: Console) -> None:
    """Print the sentence, the table and the notes; rich leaves colours out where there is no terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold")  # the one column that gives way on a narrow terminal
    for heading in HEADINGS[1:]:
        table.add_column(re.sub(r"(?<=-)|(?<=mix/)| (?!%)|(?=/s$)", "\n", heading), justify="right", no_wrap=True)
    for group, row in zip(groups, rows(groups), strict=True):
        label = Text("\n ".join(group.lines), style=_STYLE[group.arm])
        table.add_row(label, *map(Text, row.cells[1:]))
    console.print(Text(headline(groups)), "", table, sep="\n")
    for note in notes(groups):
        console.print(Text(f"note: {note}"))


def _write(path: Path, groups: list[Group], found: Found) -> None:
    from mixdist.report.page import page  # matplotlib takes a second to import

    text = page(groups, found)
    try:
        files.write_text(path, text)
        files.write_text(path.with_suffix(".md"), markdown(groups, found))
    except OSError as error:
        raise UserError(
            f"--out {path} cannot be written: {error.strerror}; name a file in an existing folder"
        ) from None
