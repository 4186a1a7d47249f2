"""`mixdist compare`: run folders -> the table on the console and, with --out, the page and its Markdown twin."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixdist import files
from mixdist.arguments import Parser
from mixdist.errors import UserError
from mixdist.report import scaling
from mixdist.report.collect import Found, collect
from mixdist.report.comparable import comparable
from mixdist.report.csv_table import csv_table
from mixdist.report.markdown import markdown
from mixdist.report.paired import comparisons
from mixdist.report.run import Run
from mixdist.report.summarise import ARMS, Group, group_runs
from mixdist.report.table import HEADINGS, rows
from mixdist.report.wandb_report import RUN_ID, WORLD_SIZE, by_arms, by_groups, publish
from mixdist.report.words import headline, notes
from mixdist.tracking.privacy import shareable

_TITLE = "mixdist comparison"
_ALL_RUNS = "All runs of this project by arm. A run set is split further in its own table."
MOST_PAIRS = 3  #: on the console
_STYLE = dict(zip(ARMS, ("green", "blue", "red"), strict=True))


def main(argv: Sequence[str]) -> int:
    """Compare the runs that the command line names; return the exit code.

    Raises:
        UserError: a path without a run, no finished run, or an --out that cannot be written.
    """
    options = _parse(argv)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if not options.runs:  # only with --wandb
        sys.stdout.write(publish(options.wandb, f"{_TITLE}, by arm", _ALL_RUNS, by_arms(), options.by) + "\n")
        return 0
    found = comparable(collect(options.runs), options.strict)
    groups = group_runs(found.runs)
    for entry in found.left_out:
        errors.print(f"warning: {entry.folder} is left out: {entry.reason}", style="yellow", markup=False)
    _print_table(groups, Console(highlight=False))
    if options.by and options.wandb is None:
        _print_scaling(groups, Console(highlight=False))
    if options.out is not None:
        _write(options.out, groups, found)
        beside = ", ".join(options.out.with_suffix(suffix).name for suffix in (".md", ".csv"))
        errors.print(f"wrote {options.out}, beside it {beside} and {_figures(options.out).name}/", markup=False)
    if options.wandb is not None:
        _publish(options.wandb, options.by, groups, found, errors)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "mixdist compare", "Compare finished runs: accuracy over seeds, training time, speed-up over ssl+sl."
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="run folder, folder that holds runs (3 levels), or quoted pattern"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="REPORT.html",
        help="write a page, beside it REPORT.md and REPORT.csv, and each figure as SVG and PNG in REPORT-figures/",
    )
    parser.add_argument("--strict", action="store_true", help="a run that cannot be compared is an error")
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="write a W&B report, over the one of the same experiments; without RUN, of all runs there by arm",
    )
    parser.add_argument(
        "--by", choices=[WORLD_SIZE], help="hold runs of one config on different numbers of ranks against each other"
    )
    options = parser.parse_args(argv)
    if not options.runs and options.wandb is None:
        raise UserError("give run folders, or a folder that holds some; without any, --wandb ENTITY/PROJECT")
    if options.out is not None and options.out.suffix != ".html":
        raise UserError(f"--out {options.out} should end in .html; Markdown, CSV and figures go beside it")
    return options


def _publish(place: str, by: str | None, groups: list[Group], found: Found, errors: Console) -> None:
    """Write the W&B report of the groups, and print its URL; no path of this machine goes there."""
    groups = [replace(group, settings=shareable(group.settings)) for group in groups]
    sets, unknown = by_groups(groups)
    for folder in unknown:
        errors.print(f"warning: {folder} is not in the W&B report: it was trained without W&B", markup=False)
    if not sets:
        raise UserError(f"--wandb {place}: none of these runs was trained with W&B (no {RUN_ID} in their folders)")
    experiments = dict.fromkeys(_experiment(run) for group in groups for run in group.runs)
    title, text = f"{_TITLE}: {', '.join(experiments)}", markdown(groups, Found(found.runs, ()))
    sys.stdout.write(publish(place, title, text, sets, by) + "\n")


def _experiment(run: Run) -> str:
    """Return the group that W&B has a run in, as mixdist.train names it."""
    return str(run.settings.get("tracking.group") or run.folder.resolve().parent.name)


def _print_table(groups: list[Group], console: Console) -> None:
    """Print the sentence, the table and the notes; rich leaves colours out where there is no terminal."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold")  # the one column that gives way on a narrow terminal
    shown = [number for number, heading in enumerate(HEADINGS) if _on_console(heading, groups)]
    for heading in [HEADINGS[number] for number in shown[1:]]:
        table.add_column(re.sub(r"(?<=-)|(?<=mix/)| (?!%)|(?=/s$)", "\n", heading), justify="right", no_wrap=True)
    for group, row in zip(groups, rows(groups), strict=True):
        label = Text("\n ".join(group.lines), style=_STYLE[group.arm])
        table.add_row(label, *(Text(row.cells[number]) for number in shown[1:]))
    console.print(Text(headline(groups)), "", table, sep="\n")
    pairs = comparisons(groups)
    for pair in pairs[:MOST_PAIRS]:
        console.print(Text(pair.sentence))
    if len(pairs) > MOST_PAIRS:
        console.print(Text(f"and {len(pairs) - MOST_PAIRS} further pairs of arms, which --out lists"))
    for note in notes(groups):
        console.print(Text(f"note: {note}"))


def _print_scaling(groups: list[Group], console: Console) -> None:
    found = scaling.scaling(groups)
    if not found:
        raise UserError("--by world_size: no two groups of these runs differ in the number of ranks alone")
    table = Table(*scaling.HEADINGS, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for one in found:
        table.add_row(*one.cells)
    console.print("", table, sep="\n")


def _on_console(heading: str, groups: list[Group]) -> bool:
    """Leave out what 80 columns have no room for: the paper's figures, where no row has any, else the labels."""
    matched = any(row.cells[HEADINGS.index("paper %")] != "n/a" for row in rows(groups))
    return heading not in ("ssl/mix/sl %", "labels" if matched else "paper %")


def _figures(path: Path) -> Path:
    return path.with_name(f"{path.stem}-figures")


def _write(path: Path, groups: list[Group], found: Found) -> None:
    from mixdist.report.page import drawn, page  # matplotlib takes a second to import

    pictures = drawn(groups)
    text = page(groups, found, pictures)
    try:
        files.write_text(path, text)
        files.write_text(path.with_suffix(".md"), markdown(groups, found))
        files.write_text(path.with_suffix(".csv"), csv_table(groups))
        _figures(path).mkdir(exist_ok=True)
        for picture in pictures.all():
            picture.save(_figures(path))
    except OSError as error:
        raise UserError(
            f"--out {path} cannot be written: {error.strerror}; name a file in an existing folder"
        ) from None
