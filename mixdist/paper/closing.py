"""The end of a command that ran a grid: its table on the console, what is left, and the exit code."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mixdist.data.packing.summary import print_line
from mixdist.paper.runner import Runner, State
from mixdist.paper.table import Text

INTERRUPTED, STOPPED, FAILED = 130, 75, 1  # Ctrl-C; any other signal: start it again; a run has failed


def print_table(text: Text, console: Console) -> None:
    """Print the table of an outcome, with its marks above and its notes below."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, heading in enumerate(text.headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in text.rows:
        table.add_row(*row)
    for mark in text.marks:
        print_line(console, f"{mark}.")
    print_line(console, f"{text.title} ({text.shared})")
    console.print(table, highlight=False)
    for note in text.notes:
        print_line(console, f"note: {note}")


def exit_code(runner: Runner, states: Mapping[Path, State], say: Callable[[str], None]) -> int:
    """Say what is left of the runs that were chosen, and return the exit code of the command."""
    if runner.stopped_by:
        say("stopped by a signal; the same command goes on where it stands")
        return INTERRUPTED if runner.stopped_by == signal.SIGINT else STOPPED
    counts = Counter(states.values())
    if elsewhere := counts["taken"] + counts["open"]:
        say(f"{elsewhere} of {len(states)} runs are in the hands of another process; the same command later shows them")
    if counts["failed"]:
        say(f"{counts['failed']} of {len(states)} runs failed; the same command tries them again")
        return FAILED
    return 0
