"""`python -m benchmarks.faults`: random faults over the three phases, each recovered from by the same command again.

A run takes several faults on its way, at rising steps. At its end its weights and moments are compared, bit for bit,
with those of a run that nothing disturbed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.entry import leave
from benchmarks.faults_kinds import KINDS, small_disk
from benchmarks.faults_run import STEPS, Training, differing
from benchmarks.machine import measured_on
from mixdist.arguments import Parser
from mixdist.data.packing.summary import plain_or_terminal
from mixdist.errors import MixdistError, UserError
from mixdist.files import write_json

A_RUN = 6  # faults of one run
SHORT = [kind for kind in KINDS if kind != "SIGSTOP of a rank"]  # which waits for its time to be up
FIRST, LAST = 35, 165  # steps between which faults lie: two checkpoints are there by then, and there is a way to go


@dataclass(frozen=True)
class Tried:
    """A fault, and what became of the run."""

    run: int
    kind: str
    step: int  #: at which it was to strike
    reached: int  #: last step that was recorded when the processes were gone
    saved: int  #: step that the next start went on from
    wrong: str  #: what was not as it should be, empty where all was
    recovered: bool = False  #: the same command went on
    equal: bool = False  #: and the run ended bit for bit as the undisturbed one

    @property
    def lost(self) -> int:
        """Steps that had to be trained again."""
        return max(0, self.reached - self.saved)


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write what was asked for; return 0 where every run ended as if nothing had been."""
    arguments = _parser().parse_args(argv)
    if arguments.faults < 1:
        raise UserError(f"--faults {arguments.faults} is out of range; it should be 1 or more")
    runs = (
        _draw([SHORT], arguments.seed)
        if arguments.short
        else _draw(_deal(arguments.faults, arguments.seed), arguments.seed)
    )
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="mixdist-faults-") as work:
        tried: list[Tried] = []
        for run in _runs(Path(work), runs, Random(arguments.seed)):
            tried += run
            if arguments.json:  # after each run, as all of them take long
                write_json(arguments.json, _report(tried, arguments.seed, time.time() - started))
    _print(tried)
    return 0 if all(one.equal and not one.wrong for one in tried) else 1


def _deal(faults: int, seed: int) -> list[list[str]]:
    """Return the kinds of each run: all equally often, in random order."""
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(faults)]
    Random(seed).shuffle(kinds)
    return [kinds[at : at + A_RUN] for at in range(0, faults, A_RUN)]


def _draw(runs: Sequence[Sequence[str]], seed: int) -> list[list[tuple[str, int]]]:
    """Return the (kind, step) of each run's faults, at random rising steps."""
    random = Random(seed)
    return [list(zip(run, sorted(random.sample(range(FIRST, LAST), len(run))), strict=True)) for run in runs]


def _runs(work: Path, runs: list[list[tuple[str, int]]], random: Random) -> Iterator[list[Tried]]:
    """Yield what became of the faults of each run."""
    data = work / "digits"
    subprocess.run([Path(sys.executable).with_name("mixdist"), "pack", "digits", data], check=True, capture_output=True)
    undisturbed = Training(data, work / "undisturbed")
    undisturbed.start({})
    if undisturbed.end() != 0:
        raise MixdistError(f"the undisturbed run failed: {undisturbed.output[-2000:]}")
    for number, faults in enumerate(runs):
        with small_disk(work / f"run-{number}") as small:
            if not small:
                faults = [fault for fault in faults if fault[0] != "full disk"]
            yield _run(number, Training(data, work / f"run-{number}"), faults, undisturbed.folder, random)


def _run(
    number: int, training: Training, faults: list[tuple[str, int]], undisturbed: Path, random: Random
) -> list[Tried]:
    """Let the faults befall one run; return them, with whether it recovered from each, and its end."""
    tried: list[Tried] = []
    for kind, step in faults:
        wrong = KINDS[kind](training, step, random)
        tried.append(Tried(number, kind, step, training.step, training.saved(), wrong))
        _say(tried[-1])
        if wrong:
            sys.stderr.write(training.output[-3000:])
    training.start({})
    finished = training.end() == 0 and training.step == STEPS
    places = differing(training.folder, undisturbed) if finished else ["not finished"]
    print(
        f"run {number}: {'as undisturbed' if not places else f'differs in {places[:3]}'}", file=sys.stderr, flush=True
    )
    if not finished:
        sys.stderr.write(training.output[-3000:])
    # A fault is recovered from where the next start came to the next fault, or to the end.
    after = [not one.wrong.startswith("ended before") for one in tried[1:]] + [finished]
    return [
        replace(one, recovered=went_on, equal=finished and not places)
        for one, went_on in zip(tried, after, strict=True)
    ]


def _say(one: Tried) -> None:
    text = f"run {one.run}: {one.kind} at step {one.reached}, goes on from {one.saved}"
    print(text + (f": {one.wrong}" if one.wrong else ""), file=sys.stderr, flush=True)


def _print(tried: list[Tried]) -> None:
    table = Table("fault", "tried", "as foreseen", "recovered", "bitwise-equal ends", "steps lost: median", "most")
    for kind, row in _figures(tried).items():
        table.add_row(kind, *(str(row[key]) for key in row))
    plain_or_terminal().print(table)
    if not any(one.kind == "full disk" for one in tried):
        print("no full disk: mounting a small file system is not permitted here")


def _figures(tried: list[Tried]) -> dict[str, dict[str, float]]:
    rows = {kind: [one for one in tried if one.kind == kind] for kind in KINDS} | {"all": tried}
    return {
        kind: {
            "tried": len(row),
            "as_foreseen": sum(not one.wrong for one in row),
            "recovered": sum(one.recovered for one in row),
            "equal": sum(one.equal for one in row),
            "steps_lost_median": median(one.lost for one in row),
            "steps_lost_most": max(one.lost for one in row),
        }
        for kind, row in rows.items()
        if row
    }


def _report(tried: list[Tried], seed: int, seconds: float) -> dict[str, Any]:
    return {
        **measured_on(),
        "seed": seed,
        "seconds": round(seconds),
        "figures": _figures(tried),
        "faults": [asdict(one) | {"lost": one.lost} for one in tried],
    }


def _parser() -> Parser:
    parser = Parser("python -m benchmarks.faults", "Faults, proved: what a run loses to each (benchmarks/README.md).")
    add = parser.add_argument
    add("--faults", type=int, default=64, metavar="N", help="faults in all (default: %(default)s)")
    add("--short", action="store_true", help="one run, with one fault of each kind but SIGSTOP")
    add("--seed", type=int, default=0, metavar="N", help="of kinds, steps and ranks (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    leave(main)
