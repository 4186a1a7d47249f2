"""The packed set that is to be trained from: its index, and a few of its images."""

from __future__ import annotations

from pathlib import Path

from mixdist.data.checking.check import CheckOptions, check_set
from mixdist.doctor.finding import Finding
from mixdist.errors import UserError

DECODED = 50  # images of a split; shards are read whole, for their checksums


def packed_set(folder: Path) -> Finding:
    """Check a set as `mixdist check` does, decoding a few images only."""
    try:
        report = check_set(folder, CheckOptions(decode=DECODED))
    except UserError as error:
        return Finding("data", "fail", str(error))
    rows = sum(len(split.index) for split in report.packed.splits.values())
    said = f"{folder}: {rows:,} samples in {len(report.packed.splits)} splits"
    if report.damaged:
        return Finding("data", "fail", f"{said}, damaged", f"mixdist check {folder} names what is; pack it again")
    if report.warnings:
        return Finding("data", "note", f"{said}, {report.warnings} warnings", f"mixdist check {folder} lists them")
    return Finding("data", "ok", said)
