"""One case of the fuzz: index, open, check and read every sample, and account for each."""

from __future__ import annotations

import io
import shutil
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks.fuzz_corpus import COUNTED, DELIVERED, REFUSED, Case, kind_of, make
from mixdist.data.bad import BadSamples
from mixdist.data.batch import Statistics
from mixdist.data.checking.check import CheckOptions, check_set
from mixdist.data.checking.summary import print_report
from mixdist.data.images import DirectImages
from mixdist.data.index import Split
from mixdist.data.indexing.build import index_tars
from mixdist.data.indexing.options import IndexOptions
from mixdist.data.indexing.summary import print_summary
from mixdist.data.open_set import open_set
from mixdist.data.reading.reader import CENTRE
from mixdist.errors import UserError
from mixdist.world import World

CRASHED, DIED, HUNG, RAN_CODE, UNACCOUNTED = "traceback", "died", "hung", "code run", "unaccounted"
FAILURES = (CRASHED, DIED, HUNG, RAN_CODE, UNACCOUNTED)
ALONE = World(0, 0, 1, 1, torch.device("cpu"))
SIZE = 8  # pixels of the images that are read


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    number: int
    outcome: str
    detail: str = ""

    @property
    def kind(self) -> str:
        """Its kind of fault."""
        return kind_of(self.number)


class UnaccountedError(Exception):
    """A sample is lost, or the outcome is not what the case allows."""


def run_case(work: Path, canaries: Path, number: int, seed: int) -> Result:
    """Make and run one case in a fresh folder; ``canaries``, the working directory, should stay empty."""
    folder = work / f"case-{number}"
    folder.mkdir()
    try:
        case = make(folder, number, seed, str(canaries / "canary"))
        outcome, detail = _drive(folder, case)
        if outcome not in case.allowed:
            outcome, detail = UNACCOUNTED, f"{outcome}, expected {' or '.join(case.allowed)}: {detail}"
    except UnaccountedError as error:
        outcome, detail = UNACCOUNTED, str(error)
    except Exception:
        outcome, detail = CRASHED, traceback.format_exc()
    if any(canaries.iterdir()):
        outcome, detail = RAN_CODE, f"left behind: {[path.name for path in canaries.iterdir()]}"
        for path in canaries.iterdir():
            path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    return Result(number, outcome, detail)


def _drive(folder: Path, case: Case) -> tuple[str, str]:
    try:
        bad = _index(folder, case)
        if case.damage is not None:
            case.damage()
        packed = open_set(folder)
        Statistics.of(packed.mean, packed.std, torch.device("cpu"))  # as training takes them
        report = check_set(folder, CheckOptions(decode=None, workers=1, shards_at_once=1))
        print_report(report, Console(file=io.StringIO()))
    except UserError as error:
        return REFUSED, str(error)
    delivered = failed = 0
    for split in packed.splits.values():
        good, broken = read_samples(split)
        if good + broken != len(split.index):
            raise UnaccountedError(f"{good} delivered and {broken} bad of {len(split.index)} samples of {split.name}")
        delivered, failed = delivered + good, failed + broken
    if failed and not report.damaged:
        raise UnaccountedError(f"{failed} samples cannot be read, but the check found no damage")
    if delivered < case.good:
        raise UnaccountedError(f"{delivered} samples delivered, of {case.good} good ones")
    return (COUNTED if bad or failed or report.damaged else DELIVERED), f"{delivered} delivered"


def _index(folder: Path, case: Case) -> int:
    """Index without and with ``skip_bad``; return how many samples and shards are bad."""
    options = IndexOptions(**case.options, workers=1)
    try:
        manifest, tally = index_tars(folder, options)
        refused = None
    except UserError as error:
        if list(folder.glob("*.npy")) or list(folder.glob("*.json*")):
            raise UnaccountedError("a refusal left files behind") from error
        refused = error
        manifest, tally = index_tars(folder, replace(options, skip_bad=True))
    print_summary(folder, manifest, tally, Console(file=io.StringIO()))
    rows = sum(entry["samples"] for entry in manifest["splits"].values())
    bad = len(tally.faults) + len(tally.broken)
    if tally.found != rows + len(tally.faults) or case.samples not in (None, tally.found):
        raise UnaccountedError(
            f"{tally.found} samples found, {case.samples} expected; {rows} indexed, {len(tally.faults)} bad"
        )
    if bool(bad) != bool(refused):
        raise UnaccountedError(f"{bad} bad samples or shards, but without --skip-bad: {refused or 'no refusal'}")
    return bad


def read_samples(split: Split) -> tuple[int, int]:
    """Read and decode every sample as training does; return how many came, and how many were counted as bad."""
    asked = DirectImages(split, SIZE).ask(np.arange(len(split.index)), CENTRE).wait()
    if asked.images.shape != (len(split.index), SIZE, SIZE, 3):
        raise UnaccountedError(f"images of shape {tuple(asked.images.shape)}")
    bad = BadSamples("skip", len(split.index), len(split.index), None)
    bad.note(asked.unread)
    bad.agree(ALONE)
    return len(split.index) - len(asked.unread), len(bad.found)
