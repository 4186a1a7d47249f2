"""`mixdist check`: all checks of a set, in one list of findings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mixdist.arguments import refuse_below_one, refuse_seed
from mixdist.data.checking.content import Rows, chosen_to_decode
from mixdist.data.checking.duplicates import duplicate_findings, repeated_marks
from mixdist.data.checking.findings import Finding
from mixdist.data.checking.spread import DRAWS, full_permutation, some_shards_at_once, sortedness
from mixdist.data.checking.visit import Seen, visit
from mixdist.data.faults import Fault
from mixdist.data.index import PackedSet, Split
from mixdist.data.open_set import open_set
from mixdist.data.remote.node_cache import NodeCache
from mixdist.errors import UserError

DECODED = 1000  # images of a split: seconds, and any fault that strikes 1 % of them is found
SORTED = 0.5  # below this share of the classes that chance would give, shards count as sorted by class
UNBALANCED = 10  # largest class over smallest: from here on, accuracy says little about the small ones


@dataclass(frozen=True)
class CheckOptions:
    """The options of `mixdist check`; docs/data.md describes each."""

    decode: int | None = DECODED  #: images of a split to decode; None: all
    batch: int = 256  #: global batch whose mixture is foretold
    shards_at_once: int = 8  #: as data.shards_at_once, where shards are shuffled
    seed: int = 0  #: which images are decoded
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    def check(self) -> None:
        """Refuse values out of range with a ``UserError``."""
        if self.decode is not None and self.decode < 0:
            raise UserError(f"--decode {self.decode} is out of range; it should be 0 or more, all or none")
        refuse_seed(self.seed)
        refuse_below_one(batch=self.batch, shards_at_once=self.shards_at_once, workers=self.workers)


@dataclass(frozen=True)
class Report:
    """What was found."""

    packed: PackedSet
    findings: list[Finding]
    faults: list[Fault]  #: damaged shards and samples

    @property
    def damaged(self) -> bool:
        """Whether something cannot be used as it is."""
        return any(finding.level == "damaged" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many findings may harm training."""
        return sum(finding.level == "warning" for finding in self.findings)


def check_set(location: str | Path, options: CheckOptions, cache: NodeCache | None = None) -> Report:
    """Run all checks on a set.

    Args:
        location: a folder, or the URL of one.
        options: see the class.
        cache: of a remote set: for this check alone, as a shard is removed from it when it has been read. A copy that
            was there before would hide what the server has now.

    Raises:
        UserError: an option is out of range.
        DataError: the set cannot even be opened (see `open_set`, also for what else it raises).
    """
    options.check()
    packed = open_set(location, cache)
    decoded = {name: _drawn(split, options) for name, split in packed.splits.items()}
    seen = visit(packed, decoded, repeated_marks(packed.splits), options.workers)
    findings = [_shards(seen)]
    findings += [_samples(split, seen, int(decoded[name].sum())) for name, split in packed.splits.items()]
    repeated = duplicate_findings(packed.splits, {name: looked.digests for name, looked in seen.samples.items()})
    findings += [_of_those_read(each) for each in repeated] if seen.unread else repeated
    for split in packed.splits.values():
        findings += [_coverage(split), *_balance(packed, split), _sizes(split)]
    if "train" in packed.splits:
        findings += _mixture(packed.splits["train"], options)
    return Report(packed, findings, [*seen.faults, *(fault for each in seen.samples.values() for fault in each.faults)])


def _drawn(split: Split, options: CheckOptions) -> Rows:
    wanted = np.zeros(len(split.index), np.bool_)
    wanted[chosen_to_decode(split, options.decode, options.seed)] = True
    return wanted


def _shards(seen: Seen) -> Finding:
    if seen.faults:
        return Finding("damaged", "set", "shards", f"{len(seen.faults):,} of {seen.shards:,} damaged (table below)")
    return Finding("ok", "set", "shards", f"{seen.shards:,} shards have the SHA-256 of the manifest")


def _samples(split: Split, seen: Seen, decoded: int) -> Finding:
    found, unread = seen.samples[split.name].faults, seen.unread[split.name]
    wrong = [f"{len(found):,} damaged (table below)"] if found else []
    wrong += [f"{unread:,} not looked at, in shards that could not be read"] if unread else []
    if wrong:
        return Finding("damaged", split.name, "samples", "; ".join(wrong))
    whole = f"{len(split.index):,} samples have the CRC-32 of the index; {decoded:,} images decoded"
    return Finding("ok", split.name, "samples", whole)


def _of_those_read(finding: Finding) -> Finding:
    if finding.level != "ok":
        return finding
    return replace(finding, level="info", detail=f"{finding.detail}, of those that could be read")


def _coverage(split: Split) -> Finding:
    labelled, samples = int((split.labels >= 0).sum()), len(split.index)
    detail = f"{labelled:,} of {samples:,} samples have a label ({labelled / samples:.1%})"
    if split.name != "train" and labelled < samples:
        return Finding("warning", split.name, "labels", f"{detail}; those without cannot be tested on")
    return Finding("info", split.name, "labels", detail)


def _balance(packed: PackedSet, split: Split) -> list[Finding]:
    counts = np.bincount(split.labels[split.labels >= 0], minlength=len(packed.classes))
    if not counts.sum():
        return []
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        detail = (
            f"{len(empty)} of {len(counts)} classes have no labelled sample, the first '{packed.classes[empty[0]]}'"
        )
        return [Finding("warning", split.name, "classes", detail)]
    small, large = int(counts.argmin()), int(counts.argmax())
    if counts[small] == counts[large]:
        return [
            Finding("info", split.name, "classes", f"{len(counts)} classes of {counts[small]:,} labelled samples each")
        ]
    detail = (
        f"{len(counts)} classes of {counts[small]:,} ('{packed.classes[small]}') to {counts[large]:,} "
        f"('{packed.classes[large]}') labelled samples"
    )
    if counts[large] >= UNBALANCED * counts[small]:
        detail += f"; the largest has {counts[large] / counts[small]:.0f} times the samples of the smallest"
        return [Finding("warning", split.name, "classes", detail)]
    return [Finding("info", split.name, "classes", detail)]


def _sizes(split: Split) -> Finding:
    height, width = split.index["height"], split.index["width"]
    sizes = len(np.unique(height.astype(np.uint32) << 16 | width))
    if sizes == 1:
        return Finding("info", split.name, "image sizes", f"all {width[0]} x {height[0]} pixels")
    shorter = np.minimum(height, width)
    detail = (
        f"{sizes:,} sizes, {width.min()} to {width.max()} wide and {height.min()} to {height.max()} high; "
        f"shorter side {shorter.min()}, median {int(np.median(shorter))}"
    )
    return Finding("info", split.name, "image sizes", detail)


def _mixture(split: Split, options: CheckOptions) -> list[Finding]:
    """Foretell the shards and classes in a batch of train, and warn of shards that are sorted by class."""
    full = _distinct(full_permutation(split, options.batch))
    findings = [Finding("info", "train", f"batch of {options.batch}", f"full permutation (exact): {full}")]
    if options.shards_at_once < len(split.shards):
        some = _distinct(some_shards_at_once(split, options.batch, options.shards_at_once, options.seed))
        how = f"{options.shards_at_once} shards at a time, permuted within (exact within, mean of {DRAWS} seeded draws)"
        findings.append(Finding("info", "train", f"batch of {options.batch}", f"{how}: {some}"))
    mixed = sortedness(split)
    if mixed < SORTED:
        here = "pack it again, or train with --data.shuffle full" if split.remote else "mixdist permutes all samples"
        detail = (
            f"shards hold {mixed:.0%} of the classes that chance would give them: they are sorted by class, and a "
            f"reader that takes a few shards at a time feeds batches of few classes; {here}"
        )
        findings.append(Finding("warning", "train", "class order", detail))
    return findings


def _distinct(expected: tuple[float, float]) -> str:
    return f"{expected[0]:.1f} distinct shards and {expected[1]:.1f} distinct classes expected"
