"""How much memory this process may still take: of the machine, and of the control groups (a container, a Slurm job)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")

# The same three in both versions: what may be used, what is, and the part of it that the kernel gives up first.
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def free_memory(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Return the bytes that are free or that the kernel would free at once, as cached files; the least of all limits.

    Args:
        proc: where processes are described.
        groups: where control groups are mounted, version 1 or 2.
    """
    return max(0, min([_of_machine(proc), *_of_groups(proc, groups)]))


def _of_machine(proc: Path) -> int:
    with suppress(OSError, KeyError, ValueError):
        return _table(proc / "meminfo")["MemAvailable:"] * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # where there is no /proc


def _of_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Give what each group of this process, and each that holds it, has left."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (groups / "memory", V1) if controllers else (groups, V2)
        # In a container the path may be the host's, of which only the root is to be seen.
        for inner in (PurePosixPath(path), *PurePosixPath(path).parents):
            with suppress(OSError, KeyError, ValueError):  # no such folder, or no limit ("max")
                yield _left(root / inner.relative_to("/"), *names)


def _left(group: Path, limit: str, used: str, reclaimable: str) -> int:
    most = int((group / limit).read_text())
    return most - int((group / used).read_text()) + _table(group / "memory.stat")[reclaimable]


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
