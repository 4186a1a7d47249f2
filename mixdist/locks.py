"""Locks between the processes and threads of one node: flock on a file, which the kernel frees if its owner dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

LOOK_S = 0.1  # between two looks at a lock that another holds


@contextmanager
def locked(path: Path, wait: bool = True, touched: Callable[[], None] | None = None) -> Iterator[TextIO]:
    """Wait for the exclusive lock on ``path``, give the open file, and remove it at the end.

    One that a killed process left over is free and is taken like any other.

    Args:
        path: of the file that is locked.
        wait: False: not at all.
        touched: called while it waits, when the owner has touched the file (`touch`) since.

    Raises:
        BlockingIOError: another holds it, and ``wait`` is False.
    """
    file = _acquire(path, wait, touched)
    try:
        yield file
    finally:
        path.unlink(missing_ok=True)  # while it is held: those who wait see that the name is gone and open a new one
        fcntl.flock(file, fcntl.LOCK_UN)  # a forked child has the same open file: closing alone would not free it
        file.close()


def touch(file: TextIO) -> None:
    """Let those who wait for the lock on ``file`` know that its owner gets on."""
    os.utime(file.fileno())


def is_held(path: Path) -> bool:
    """Say whether a process holds the lock now; a left-over file is not held."""
    return _refused(path, fcntl.LOCK_SH)  # shared: two that ask do not disturb each other


def share(path: Path) -> BinaryIO:
    """Open a file to read and hold it, beside any number of others, until it is closed; see `in_use`."""
    file = path.open("rb")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def in_use(path: Path) -> bool:
    """Say whether anybody has the file by `share`; one that is missing is not in use."""
    return _refused(path, fcntl.LOCK_EX)


def _refused(path: Path, how: int) -> bool:
    """Say whether a lock of that kind is refused now; on a missing file none is."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, how | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _acquire(path: Path, wait: bool, touched: Callable[[], None] | None) -> TextIO:
    while True:
        file = path.open("a+")
        try:
            if wait and touched:
                _await(file, touched)
            else:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()  # its owner removed it while this one waited


def _await(file: TextIO, touched: Callable[[], None]) -> None:
    seen = os.fstat(file.fileno()).st_mtime_ns
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_S)
            if (now := os.fstat(file.fileno()).st_mtime_ns) != seen:
                seen = now
                touched()
        else:
            return
