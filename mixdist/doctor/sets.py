"""The packed set that is to be trained from: its index, and a few of its images."""

from __future__ import annotations

from mixdist.data.checking.check import CheckOptions, check_set
from mixdist.data.index import PackedSet
from mixdist.data.open_set import open_set
from mixdist.data.remote.download import Retry
from mixdist.data.remote.own_cache import own_cache
from mixdist.doctor.finding import Finding
from mixdist.errors import MixdistError

DECODED = 50  # images of a split; shards of a folder are read whole, for their checksums
IMPATIENT = Retry(attempts=2, stall_s=10)  # of a server that does not answer: some seconds, not minutes


def packed_set(location: str) -> Finding:
    """Check a folder as `mixdist check` does, decoding a few images only; of a remote set fetch the first shards."""
    try:
        with own_cache(location, retry=IMPATIENT) as cache:
            if cache is None:
                return _folder(location)
            packed = open_set(location, cache)
            for split in packed.splits.values():
                split.shard_path(0)
    except MixdistError as error:
        return Finding("data", "fail", str(error))
    said = f"{_said(packed)}; the first shard of each arrived"
    return Finding("data", "ok", said, f"mixdist check {packed.location} reads all of it")


def _folder(folder: str) -> Finding:
    report = check_set(folder, CheckOptions(decode=DECODED))
    said = _said(report.packed)
    if report.damaged:
        return Finding("data", "fail", f"{said}, damaged", f"mixdist check {folder} names what is; pack it again")
    if report.warnings:
        return Finding("data", "note", f"{said}, {report.warnings} warnings", f"mixdist check {folder} lists them")
    return Finding("data", "ok", said)


def _said(packed: PackedSet) -> str:
    rows = sum(len(split.index) for split in packed.splits.values())
    return f"{packed.location}: {rows:,} samples in {len(packed.splits)} splits"
