"""What is wrong with samples and shards: collected, counted by reason and shard, and raised or shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from mixdist.errors import DataError

SHOWN = 20  # rows of the table, lines of a list; the rest is one row more


@dataclass(frozen=True, slots=True)
class Fault:
    """One sample, or the rest of one shard, that cannot be used."""

    reason: str  #: what it is counted under
    shard: str  #: the shard's name
    message: str  #: which member, what is wrong


def raise_faults(folder: Path, faults: Sequence[Fault]) -> None:
    """Raise where there are faults, naming the first and how many there are by reason.

    Raises:
        DataError: always, but for no faults.
    """
    if not faults:
        return
    first = faults[0]
    raise DataError(
        f"{folder} holds {len(faults)} bad samples or shards ({counted(faults)}); the first is in {first.shard}: "
        f"{first.message}; repair them, or leave them out with --skip-bad"
    )


def counted(faults: Sequence[Fault]) -> str:
    """Return how many faults there are by reason, the most frequent first."""
    counts = Counter(fault.reason for fault in faults)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def faults_table(faults: Sequence[Fault], title: str) -> Table:
    """Return a table of the faults by reason and shard, the most frequent first."""
    table = Table(title, "shard", "samples", "first of them")
    table.columns[2].justify = "right"
    groups = Counter((fault.reason, fault.shard) for fault in faults).most_common()
    first = {(fault.reason, fault.shard): fault.message for fault in reversed(faults)}
    for (reason, shard), count in groups[:SHOWN]:
        # Text: a stranger's name may hold what rich takes for markup.
        table.add_row(reason, Text(shard), f"{count:,}", Text(first[reason, shard]))
    if len(groups) > SHOWN:
        table.add_row(f"{len(groups) - SHOWN} rows more", "", f"{sum(count for _, count in groups[SHOWN:]):,}", "")
    return table
