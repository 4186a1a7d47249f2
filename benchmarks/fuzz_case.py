"""One case of the fuzz: index, open, check and read every sample, and account for each; some take further ways."""

from __future__ import annotations

import io
import random
import shutil
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks.fuzz_corpus import COUNTED, DELIVERED, REFUSED, Case, kind_of, make
from benchmarks.fuzz_ways import DRAW, PACK, POOL, UnaccountedError, draw, pack_members, pooled, ways_of
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

CRASHED, DIED, HUNG, RAN_CODE, LEAKED, UNACCOUNTED = "traceback", "died", "hung", "code run", "leaked", "unaccounted"
FAILURES = (CRASHED, DIED, HUNG, RAN_CODE, LEAKED, UNACCOUNTED)
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


def run_case(work: Path, canaries: Path, number: int, seed: int) -> Result:
    """Make and run one case in a fresh folder; ``canaries``, the working directory, should stay empty."""
    folder, beside = work / f"case-{number}", work / f"case-{number}-beside"
    folder.mkdir()
    beside.mkdir()
    case, said = Case(), io.StringIO()
    try:
        case = make(folder, number, seed, str(canaries / "canary"))
        ways = ways_of(number, seed)
        _further(folder, beside, case, random.Random(f"{seed}/{number}/pack"), ways, said)
        outcome, detail = _drive(folder, case, POOL in ways, said)
        if outcome not in case.allowed:
            outcome, detail = UNACCOUNTED, f"{outcome}, expected {' or '.join(case.allowed)}: {detail}"
    except UnaccountedError as error:
        outcome, detail = UNACCOUNTED, str(error)
    except Exception:
        outcome, detail = CRASHED, traceback.format_exc()
    if case.bait is not None:
        if taken := case.bait.taken(said.getvalue() + detail, (folder, beside)):
            outcome, detail = LEAKED, taken
        case.bait.close()
    if any(canaries.iterdir()):
        outcome, detail = RAN_CODE, f"left behind: {[path.name for path in canaries.iterdir()]}"
        for path in canaries.iterdir():
            path.unlink()
    for each in (folder, beside):
        shutil.rmtree(each, ignore_errors=True)
    return Result(number, outcome, detail)


def _further(folder: Path, beside: Path, case: Case, rng: random.Random, ways: list[str], said: io.StringIO) -> None:
    """Take the ways that need no index, before there is one."""
    if PACK in ways:
        print(pack_members(folder, beside, rng, case, SIZE), file=said)
    if DRAW in ways:
        print(draw(folder, beside, case, SIZE, ALONE), file=said)


def _drive(folder: Path, case: Case, pool: bool, said: io.StringIO) -> tuple[str, str]:
    try:
        bad = _index(folder, case, said)
        if case.damage is not None:
            case.damage()
        packed = open_set(folder)
        Statistics.of(packed.mean, packed.std, torch.device("cpu"))  # as training takes them
        report = check_set(folder, CheckOptions(decode=None, workers=1, shards_at_once=1))
        print_report(report, Console(file=said))
    except UserError as error:
        return REFUSED, str(error)
    delivered = failed = 0
    for split in packed.splits.values():
        good, broken = read_samples(split)
        if good + broken != len(split.index):
            raise UnaccountedError(f"{good} delivered and {broken} bad of {len(split.index)} samples of {split.name}")
        if pool and pooled(packed, split, SIZE, ALONE) != (good, broken):
            raise UnaccountedError(f"a worker process reads other samples of {split.name} than this one")
        delivered, failed = delivered + good, failed + broken
    if failed and not report.damaged:
        raise UnaccountedError(f"{failed} samples cannot be read, but the check found no damage")
    if delivered < case.good:
        raise UnaccountedError(f"{delivered} samples delivered, of {case.good} good ones")
    return (COUNTED if bad or failed or report.damaged else DELIVERED), f"{delivered} delivered"


def _index(folder: Path, case: Case, said: io.StringIO) -> int:
    """Index without and with ``skip_bad``; return how many samples and shards are bad."""
    options = IndexOptions(**case.options, workers=1)
    try:
        manifest, tally = index_tars(folder, options)
        refused = None
    except UserError as error:
        if list(folder.glob("*.npy")) or list(folder.glob("*.json*")):
            raise UnaccountedError("a refusal left files behind") from error
        refused = error
        print(error, file=said)
        manifest, tally = index_tars(folder, replace(options, skip_bad=True))
    print_summary(folder, manifest, tally, Console(file=said))
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
