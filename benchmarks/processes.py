"""What Linux says of this process, the processes below it, and the cores they run on (/proc)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    """How much of the cores' time others took since the last look."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = cores
        self.restart()

    def restart(self) -> float:
        """Return the share of the cores' time since the last call that did not go to this process family, 0 to 1."""
        before = getattr(self, "_last", (0.0, 0.0, 0.0))
        self._last = (time.perf_counter(), _busy_s(self._cores), _own_s())
        wall, busy, own = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, busy - own) / (wall * len(self._cores))


def peak_rss_mb() -> float:
    """Return the summed peaks of the resident memory of this process and all below it (shared pages count in each)."""
    return sum(_peak_kb(process) for process in _family()) * 1024 / 1e6


def _busy_s(cores: list[int]) -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    fields = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("cpu")}
    # user, nice, system, idle, iowait, irq, softirq, steal: all but idle and iowait
    return sum(int(fields[f"cpu{core}"][at]) for core in cores for at in (0, 1, 2, 5, 6, 7)) / TICKS


def _own_s() -> float:
    """CPU time of the family: user and system, of itself and of the children that it has reaped."""
    return sum(sum(map(int, _stat(process)[11:15])) for process in _family()) / TICKS


def _family() -> list[int]:
    parents = {process: int(_stat(process)[1]) for process in _all()}
    found = [os.getpid()]
    for each in found:  # grows while it is read
        found += [process for process, parent in parents.items() if parent == each]
    return found


def _all() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _stat(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, state first; zeros of a process that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return ["Z", "-1", *["0"] * 50]


def _peak_kb(process: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return 0
