"""`python -m benchmarks.loader --data DIR`: mixdist's loader beside others, interleaved, on one core and on two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.entry import leave
from benchmarks.loader_child import Job, Measured
from benchmarks.loader_formats import BATCH, last_line, work_folder, write_format
from benchmarks.loader_report import Case, Results, print_table, to_json
from benchmarks.loader_rows import ROWS, TASKS, Row
from mixdist.arguments import Parser
from mixdist.errors import UserError
from mixdist.files import write_json

TIMEOUT_S = 300  # for one measurement; the slowest take a tenth of it


@dataclass(frozen=True)
class Settings:
    """How much is measured; each field is an option of its name."""

    images: int
    rounds: int
    seconds: float
    cores: list[int]

    def check(self) -> None:
        """Refuse values out of range with a ``UserError``."""
        if self.images < BATCH:
            raise UserError(f"--images {self.images} is less than a batch of {BATCH}")
        if self.rounds < 1:
            raise UserError(f"--rounds {self.rounds} is out of range; it should be 1 or more")
        available = len(os.sched_getaffinity(0))
        for cores in self.cores:
            if not 1 <= cores <= available:
                raise UserError(f"--cores {cores} is out of range; this process may use 1 to {available}")


FULL = Settings(images=20_000, rounds=3, seconds=4.0, cores=[1, 2])
QUICK = Settings(images=5_120, rounds=1, seconds=1.5, cores=[1])


def main(argv: Sequence[str]) -> int:
    """Measure what the command line names; return the exit code."""
    arguments = _parser().parse_args(argv)
    default = QUICK if arguments.quick else FULL
    given = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
    settings = replace(default, **{name: value for name, value in given.items() if value is not None})
    settings.check()
    rows = _chosen("--rows", arguments.rows, {row.name: row for row in ROWS})
    tasks = _chosen("--tasks", arguments.tasks, {task: task for task in TASKS})
    work = arguments.work or Path(tempfile.gettempdir()) / f"mixdist-benchmarks-{os.getuid()}"
    folder, images = work_folder(arguments.data, work, settings.images)
    settings = replace(settings, images=images)
    missing = {row.name: why for row in rows if (why := row.missing or write_format(row, folder))}
    results = Results(asdict(settings) | {"batch": BATCH, "quick": arguments.quick}, missing)
    console = Console(width=None if sys.stdout.isatty() else 100)  # in a file, 80 columns would cut the figures
    for case in _cases(tasks, settings.cores):
        for round_number in range(settings.rounds):
            for row in (row for row in rows if case.task in row.tasks):
                if row.name not in results.absent(case):
                    console.print(f"{case.name}, round {round_number + 1}: {row.name}", style="dim", highlight=False)
                    _measure(row, case, folder, settings, results)
        print_table(case, results, console)
    if arguments.json:
        write_json(arguments.json, to_json(results))
    return 0


def _cases(tasks: Sequence[str], cores: Sequence[int]) -> Iterator[Case]:
    allowed = sorted(os.sched_getaffinity(0))
    for task in tasks:
        for count in cores:
            yield Case(task, allowed[-count:])


def _measure(row: Row, case: Case, folder: Path, settings: Settings, results: Results) -> None:
    """Add one measurement of a row in a process of its own, or why there is none."""
    dtype = "float32" if case.task == "augment" else row.decoded
    job = Job(row.way, str(folder / row.source), case.task, dtype, case.cores, settings.images, settings.seconds)
    environment = os.environ | {"OMP_NUM_THREADS": str(len(case.cores)), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.loader_child", json.dumps(asdict(job))]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: the child and its workers
        process.communicate()
        results.fail(case, row, f"no end after {TIMEOUT_S} s")
        return
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    lines = [line for line in out.splitlines() if line.startswith('{"images_per_s"')]
    if process.returncode or not lines:
        results.fail(case, row, f"failed: {last_line(err)}")
        return
    results.add(case, row, Measured(**json.loads(lines[-1])))


def _chosen(option: str, names: str | None, known: dict[str, Any]) -> list[Any]:
    if names is None:
        return list(known.values())
    for name in names.split(","):
        if name not in known:
            raise UserError(f"{option}: there is no {name!r}; there are: {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def _parser() -> Parser:
    parser = Parser("python -m benchmarks.loader", "Measure mixdist's loader beside others (benchmarks/README.md).")
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="64 x 64 JPEGs: class folders, Tiny ImageNet, or a packed set",
    )
    add("--quick", action="store_true", help="fewer images and epochs, one round, one core: about two minutes")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    add("--work", type=Path, metavar="DIR", help="where each loader's own format is kept (default: the temp folder)")
    add("--rows", metavar="A,B", help=f"only these of: {', '.join(row.name for row in ROWS)}")
    add("--tasks", metavar="A,B", help=f"only these of: {', '.join(TASKS)}")
    add("--cores", type=lambda text: [int(number) for number in text.split(",")], metavar="N,M", help="default: 1,2")
    add("--images", type=int, metavar="N", help="images in an epoch (default: 20,000; quick: 5,120)")
    add("--rounds", type=int, metavar="N", help="over all loaders (default: 3; quick: 1)")
    add("--seconds", type=float, metavar="S", help="of measuring, each loader a round (default: 4; quick: 1.5)")
    return parser


if __name__ == "__main__":
    leave(main)
