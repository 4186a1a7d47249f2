"""The closing summary of `mixdist index`: the splits, what was left out and why, and the commands to run next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from mixdist.data.faults import faults_table
from mixdist.data.indexing.candidates import Tally
from mixdist.data.packing.next_step import next_command
from mixdist.data.packing.summary import print_line, splits_table


def print_summary(folder: Path, manifest: dict[str, Any], tally: Tally, console: Console) -> None:
    """Print it."""
    samples = sum(entry["samples"] for entry in manifest["splits"].values())
    print_line(console, f"indexed {folder}: {samples:,} of {tally.found:,} samples, {len(manifest['classes'])} classes")
    console.print(splits_table(manifest["splits"]))
    faults = tally.broken + tally.faults
    if faults:
        console.print(faults_table(faults, "left out"))
    if tally.unclosed:
        what = f"{len(tally.unclosed):,} tars lack their closing blocks, the first is {tally.unclosed[0]!a}"
        print_line(console, f"warning: {what}; compare their sizes with the source, they may be cut off")
    if tally.left_out:
        counts = ", ".join(f"{count} {extension}" for extension, count in tally.left_out.most_common())
        print_line(console, f"members never opened, by extension: {counts}")
    print_line(console, f"check: mixdist check {shlex.quote(str(folder))}")
    print_line(console, f"next: {next_command(folder, manifest)}")
