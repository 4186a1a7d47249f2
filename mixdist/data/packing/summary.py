"""The closing summary of `mixdist pack`: what was packed, what was left out, and the command to run next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixdist.data.faults import counted
from mixdist.data.packing.doubts import classes_line, doubts
from mixdist.data.packing.folders import VIDEO_SUFFIXES
from mixdist.data.packing.next_step import next_command
from mixdist.data.packing.pack import Packed
from mixdist.data.packing.unusable import listed

WIDTH = 140  # of tables in a file
WARNING = "warning: "
LABEL = 12  # columns that entries keep for their labels


def print_summary(packed: Packed, out: Path, console: Console) -> None:
    """Print the splits, the classes, the channel statistics, what was left out, doubts and the next command."""
    manifest = packed.manifest
    size = manifest["image_size"]
    sizes = f"{size[1]} x {size[0]} pixels" if size else "several sizes"
    print_line(console, f"packed {out} ({len(manifest['classes'])} classes, images of {sizes})")
    console.print(splits_table(manifest["splits"]))
    if manifest["classes"]:
        print_line(console, f"labelled images of train: {classes_line(manifest['splits']['train']['per_class'])}")
    mean, std = (" ".join(f"{value:.4f}" for value in manifest[name]) for name in ("mean", "std"))
    print_line(console, f"train R G B in 0 to 1: mean {mean}, std {std}")
    if packed.faults:
        print_line(console, f"bad samples left out: {len(packed.faults):,} ({counted(packed.faults)})")
        for line in listed(packed.faults):
            print_entry(console, "", line, 2)
    if packed.left_out:
        counts = ", ".join(f"{count} {what}" for what, count in packed.left_out.most_common())
        print_line(console, f"files left out: {counts}")
    if manifest["options"]["video"] is None and any(suffix in VIDEO_SUFFIXES for suffix in packed.left_out):
        print_line(
            console, "videos are left out by default; add --video frames to pack images of them, or --video clips"
        )
    if packed.turned:
        found = (
            f"{packed.turned:,} images have an EXIF orientation, which is not applied: they train as they are stored"
        )
        print_warning(console, f"{found}, perhaps on their side; turn the files (mogrify -auto-orient) and pack again")
    for doubt in doubts(manifest):
        print_warning(console, doubt)
    print_line(console, f"next: {next_command(out, manifest)}")


def plain_or_terminal() -> Console:
    """Return a console of the terminal's width, and of a fixed one where the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def print_line(console: Console, text: str) -> None:
    """Print paths and commands as they are, on one line."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_entry(console: Console, label: str, text: str, width: int = LABEL) -> None:
    """Print a label, ``width`` columns wide, and its text, which a terminal wraps beside it; elsewhere on one line."""
    if not console.is_terminal:
        print_line(console, f"{label:<{width}}{text}")
        return
    entry = Table.grid()
    entry.add_column(width=width)
    entry.add_column(overflow="fold")
    entry.add_row(Text(label), Text(text))
    console.print(entry)


def print_warning(console: Console, text: str) -> None:
    """Print a warning as an entry of its own."""
    print_entry(console, WARNING, text, len(WARNING))


def splits_table(splits: dict[str, dict[str, Any]]) -> Table:
    """Return the table of a manifest's splits."""
    table = Table("split", "samples", "labelled", "classes", "shards", "MB")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, entry in splits.items():
        classes = sum(count > 0 for count in entry["per_class"].values())
        megabytes = sum(shard["bytes"] for shard in entry["shards"]) / 1e6
        numbers = (entry["samples"], entry["labelled"], classes, len(entry["shards"]))
        table.add_row(name, *(f"{number:,}" for number in numbers), f"{megabytes:,.1f}")
    return table
