"""Which of the runs that were found can stand in one comparison: those that were tested on the same data."""

from __future__ import annotations

from collections import Counter

from mixdist.errors import UserError
from mixdist.report.collect import Found, LeftOut


def comparable(found: Found, strict: bool = False) -> Found:
    """Keep the runs on the set that most runs trained on, the first given where it is a tie; the others are left out.

    Raises:
        UserError: ``strict``, and a run is left out, for this or an earlier reason.
    """
    counts = Counter(run.result.data for run in found.runs)
    data, kept = counts.most_common(1)[0]
    others = tuple(
        LeftOut(run.folder, f"trained and tested on {run.result.data}, {kept} other {_runs(kept)} on {data}")
        for run in found.runs
        if run.result.data != data
    )
    left_out = found.left_out + others
    if strict and left_out:
        reasons = "; ".join(f"{entry.folder}: {entry.reason}" for entry in left_out)
        raise UserError(f"--strict: {len(left_out)} {_runs(len(left_out))} cannot be compared ({reasons})")
    return Found(tuple(run for run in found.runs if run.result.data == data), left_out)


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"
