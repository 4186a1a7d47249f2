"""Samples of the same content: copies inside a split, and what test shares with train."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mixdist.data.checking.content import Rows
from mixdist.data.checking.findings import Finding
from mixdist.data.index import Split

Place = tuple[str, int]  #: split, row


def repeated_marks(splits: Mapping[str, Split]) -> dict[str, Rows]:
    """Return by split which samples share size and CRC-32 with another of the set: only those need comparing."""
    marks = np.concatenate(
        [split.index["size"].astype(np.uint64) << np.uint64(32) | split.index["crc32"] for split in splits.values()]
    )
    _, inverse, counts = np.unique(marks, return_inverse=True, return_counts=True)
    ends = np.cumsum([len(split.index) for split in splits.values()])
    return dict(zip(splits, np.split(counts[inverse] > 1, ends[:-1]), strict=True))


def duplicate_findings(splits: Mapping[str, Split], digests: Mapping[str, Mapping[int, bytes]]) -> list[Finding]:
    """Return the findings on byte-identical samples; equal pixels in other bytes are not seen.

    Args:
        splits: of the set.
        digests: by split and row, SHA-256 of the samples that `repeated_marks` names and that could be read.
    """
    groups = _same_content(digests)
    findings = []
    for name, split in splits.items():
        inside = [[row for where, row in group if where == name] for group in groups]
        copies = [rows for rows in inside if len(rows) > 1]
        findings.append(_inside(split, copies))
    if "train" in splits and "test" in splits:
        findings.append(_across(splits, groups))
    return findings


def _same_content(digests: Mapping[str, Mapping[int, bytes]]) -> list[list[Place]]:
    by_content: dict[bytes, list[Place]] = {}
    for name, rows in digests.items():
        for row in sorted(rows):
            by_content.setdefault(rows[row], []).append((name, row))
    return [group for group in by_content.values() if len(group) > 1]


def _inside(split: Split, copies: list[list[int]]) -> Finding:
    if not copies:
        return Finding("ok", split.name, "duplicates", "no two samples have the same content")
    surplus = sum(len(rows) - 1 for rows in copies)
    torn = sum(len(set(split.labels[rows].tolist()) - {-1}) > 1 for rows in copies)
    labels = f"; {torn} of the contents have different labels" if torn else ""
    detail = f"{surplus:,} samples repeat the content of another, the first {split.describe(copies[0][1])}{labels}"
    return Finding("warning", split.name, "duplicates", detail)


def _across(splits: Mapping[str, Split], groups: list[list[Place]]) -> Finding:
    shared = [group for group in groups if {name for name, _ in group} >= {"train", "test"}]
    leaked = [row for group in shared for name, row in group if name == "test"]
    if not leaked:
        return Finding("ok", "set", "leakage", "no test sample has the content of a train sample")
    share = len(leaked) / len(splits["test"].index)
    first = splits["test"].describe(leaked[0])
    how_many = f"{len(leaked):,} of the test samples ({share:.2%})"
    detail = f"{how_many} are in train too, the first {first}: the test score is too high"
    return Finding("warning", "set", "leakage", detail)
