"""Attack the data room: `python -m benchmarks.fuzz --cases 5000 --seed 0`.

Each case is a hostile or damaged folder of tars, or set; it is indexed, opened, checked, and every sample is read, in
a process of its own pool with a hard time limit and a memory limit. A share of the cases is also packed, drawn from
without an index, and read by worker processes. Exit code 1 if any case crashed, hung, ran code that it brought along,
opened a file or an address that it names, or left a sample unaccounted for.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.fuzz_case import DIED, FAILURES, HUNG, Result, run_case
from benchmarks.fuzz_corpus import ANY, KINDS, kind_of
from benchmarks.fuzz_ways import DRAW, PACK, POOL, ways_of

MEMORY = 2 * 2**30  # bytes a case may take beyond what a started process has; a decoded bomb takes 7.5 GB
WIDTH = 150  # of the table in a file
SPAWN = multiprocessing.get_context("spawn")  # a fresh process: nothing inherited that a case could break


def main() -> int:
    """Run the cases, print the table and the failures; return the exit code."""
    arguments = _parser().parse_args()
    numbers = range(arguments.cases) if arguments.case is None else [arguments.case]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mixdist-fuzz-") as work:
        results = list(_run(list(numbers), Path(work), arguments))
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDTH)
    console.print(_table(results))
    failures = [result for result in results if result.outcome in FAILURES]
    for result in failures[:20] if arguments.case is None else results:
        detail = result.detail if arguments.case is not None else result.detail.strip().splitlines()[-1][:300]
        console.print(Text(f"case {result.number}, {result.kind}: {result.outcome}: {detail}"))
    seconds = time.monotonic() - started
    ways = Counter(way for number in numbers for way in ways_of(number, arguments.seed))
    print(f"also packed: {ways[PACK]} cases, drawn without an index: {ways[DRAW]}, read by a process: {ways[POOL]}")
    print(f"{len(results)} cases, seed {arguments.seed}, {seconds:.0f} s; {len(failures)} failures")
    if failures:
        print(f"again: python -m benchmarks.fuzz --seed {arguments.seed} --case {failures[0].number}")
    return 1 if failures or len(results) != len(numbers) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=5000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides every byte (default: %(default)s)")
    parser.add_argument("--case", type=int, metavar="N", help="run this one alone, and print what became of it")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), metavar="N")
    parser.add_argument("--limit", type=float, default=30, metavar="S", help="seconds for a case (default: 30)")
    return parser


class _Worker:
    """A process that runs cases one at a time, and the clock of the one it is at."""

    def __init__(self, work: Path, seed: int) -> None:
        self.pipe, other = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(other, work, seed), daemon=True)
        self._process.start()
        other.close()
        self.ready = False  # says so by its first message: the time limit is for cases, not for imports
        self.case: int | None = None
        self.since = 0.0

    def give(self, number: int) -> None:
        """Start a case."""
        self.case, self.since = number, time.monotonic()
        self.pipe.send(number)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Path, seed: int) -> None:
    canaries = Path(tempfile.mkdtemp(prefix="canaries-", dir=work))
    os.chdir(canaries)  # where a relative `touch` would leave its file
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    pipe.send(None)
    while True:
        pipe.send(run_case(work, canaries, pipe.recv(), seed))


def _run(numbers: list[int], work: Path, arguments: argparse.Namespace) -> Iterator[Result]:
    """Yield the result of every case, in the order in which they end."""
    waiting = numbers[::-1]
    workers = [_Worker(work, arguments.seed) for _ in range(min(arguments.processes, len(numbers)))]
    try:
        while waiting or any(worker.case is not None for worker in workers):
            ended = wait([worker.pipe for worker in workers], timeout=1)
            for place, worker in enumerate(workers):
                result = _look(worker, worker.pipe in ended, arguments.limit)
                if result is not None:
                    yield result
                    worker.case = None
                    if result.outcome in (DIED, HUNG):
                        worker.end()
                        workers[place] = worker = _Worker(work, arguments.seed)
                if worker.ready and worker.case is None and waiting:
                    worker.give(waiting.pop())
    finally:
        for worker in workers:
            worker.end()


def _look(worker: _Worker, speaks: bool, limit: float) -> Result | None:
    """Return what became of a worker's case, None if it is still at it."""
    if speaks:
        with contextlib.suppress(EOFError, OSError):
            message = worker.pipe.recv()
            worker.ready = True
            return message if isinstance(message, Result) else None
        if worker.case is None:
            raise RuntimeError("a process of the fuzz does not start")
        return Result(worker.case, DIED, "without a traceback")
    if worker.case is not None and time.monotonic() - worker.since > limit:
        return Result(worker.case, HUNG, f"no end after {limit:.0f} s")
    return None


def _table(results: list[Result]) -> Table:
    outcomes = (*ANY, *FAILURES)
    counts = Counter((result.kind, result.outcome) for result in results)
    table = Table("kind of fault", "cases", *outcomes)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in dict.fromkeys(kind_of(number) for number in range(len(KINDS))):
        row = [counts[kind, outcome] for outcome in outcomes]
        table.add_row(kind, str(sum(row)), *(str(count or "") for count in row), end_section=kind_of(-1) == kind)
    totals = [sum(counts[kind.__name__, outcome] for kind in KINDS) for outcome in outcomes]
    table.add_row("all", str(len(results)), *map(str, totals))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
