"""What the operating system gives: shared memory, open files, the run folder's disk, the clock."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from mixdist.doctor.finding import Finding

MIB, GIB = 2**20, 2**30
SHM_A_RANK = 64 * MIB  # what NCCL maps for a rank's peers of one node, generously
OPEN_FILES = 1024  # loaders, shards and sockets of a rank with workers; macOS starts with 256
WRITTEN = 32 * MIB
SLOW_MB_S = 50.0
ROOM = 5 * GIB
SKEW_S = 5.0


def shared_memory(ranks: int, path: Path = Path("/dev/shm")) -> Finding:
    """Return whether NCCL's ranks of one node fit; mixdist's own loaders use memory that does not count there."""
    if not path.is_dir():
        return Finding("shared memory", "note", f"there is no {path}")
    free, need = shutil.disk_usage(path).free, ranks * SHM_A_RANK
    said = f"{path}: {free / MIB:,.0f} MiB free, {need / MIB:,.0f} wanted by NCCL on {ranks} GPUs"
    if ranks and free < need:
        return Finding("shared memory", "fail", said, "docker run --shm-size=1g; in Kubernetes an emptyDir of Memory")
    return Finding("shared memory", "ok", said if ranks else f"{path}: {free / MIB:,.0f} MiB free")


def open_files() -> Finding:
    """Return how many files a process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        return Finding("open files", "note", f"{soft} a process, {OPEN_FILES} are usual", f"ulimit -n {OPEN_FILES}")
    return Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"{soft} a process")


def disk(folder: Path) -> list[Finding]:
    """Write beside where runs will lie; return room and speed, and how far that disk's clock is from this one."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".mixdist-doctor-") as file:
            began = time.perf_counter()
            block = os.urandom(MIB)
            for _ in range(WRITTEN // MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = WRITTEN / 1e6 / (time.perf_counter() - began)
            skew = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError as error:
        return [
            Finding("disk", "fail", f"{place} cannot be written: {error.strerror}", "another run.dir, or its rights")
        ]
    return [_room(place, speed), _clock(skew)]


def _room(place: Path, speed: float) -> Finding:
    free = shutil.disk_usage(place).free
    said = f"{place}: {free / GIB:,.1f} GiB free, {speed:,.0f} MB/s written and synced"
    if free < ROOM:
        return Finding("disk", "note", said, "checkpoints need room: run.keep_checkpoints, or another run.dir")
    if speed < SLOW_MB_S:
        return Finding(
            "disk", "note", said, "checkpoints are written beside the training, but seldom: run.save_every_minutes"
        )
    return Finding("disk", "ok", said)


def _clock(skew: float) -> Finding:
    said = f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}, {abs(skew):.1f} s from the disk's"
    if abs(skew) > SKEW_S:
        return Finding("clock", "note", said, "let chrony or systemd-timesyncd set it: TLS and W&B refuse a wrong one")
    return Finding("clock", "ok", said)
