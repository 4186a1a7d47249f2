"""How much a cache folder holds: room is reserved before a file is written, and the least recently used ones make it.

A file in the folder is whole (its plain name), arriving (``.partial``), or a lock (``.lock``) whose text is the number
of bytes that its owner has reserved. All counting is done under one lock, so that the limit holds for all processes of
the node together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TextIO

from mixdist.data.remote.download import StoppedError
from mixdist.errors import UserError
from mixdist.locks import is_held, locked

PARTIAL, LOCK = ".partial", ".lock"
COUNTING = ".counting.lock"
POLL_S = 0.1  # between two looks, while files that are arriving hold all the room


@dataclass(frozen=True)
class _Stored:
    path: Path
    bytes: int
    used_ns: int  #: time of the last use
    kept: bool  #: a process is at work on it


class Room:
    """The bounded space of one cache folder."""

    def __init__(self, folder: Path, limit_bytes: int | None, sleep: Callable[[float], None]) -> None:
        self._folder, self._limit, self._sleep = folder, limit_bytes, sleep

    def reserve(self, lock: TextIO, partial: Path, size: int, name: str, stop: Event | None = None) -> None:
        """Reserve ``size`` bytes for the owner of ``lock``; evicts, and waits while others' arriving files need it all.

        An evicted file is only unlinked: a process that has it open or mapped keeps its content (POSIX), and the disk
        frees it after that.

        Args:
            lock: the held lock of the file, see `locks.locked`.
            partial: the file it is for; emptied where there is no room for now, as two that wait would else wait for
                what each other left over.
            size: bytes.
            name: what the message calls the file.
            stop: ends the wait.

        Raises:
            UserError: the file alone is larger than the limit.
            StoppedError: ``stop`` was set while waiting.
        """
        if self._limit is not None and size > self._limit:
            raise UserError(
                f"{name} has {size} bytes, more than the {self._limit} that the cache {self._folder} may hold; "
                f"raise its limit"
            )
        while not self._try(lock, partial, size):
            if stop is not None and stop.is_set():
                raise StoppedError
            self._sleep(POLL_S)

    def _try(self, lock: TextIO, partial: Path, size: int) -> bool:
        with locked(self._folder / COUNTING):
            _write(lock, size)
            if self._limit is None:
                return True
            stored = self._look()
            if sum(each.bytes for each in stored if each.kept) <= self._limit:
                self._evict([each for each in stored if not each.kept], sum(each.bytes for each in stored))
                return True
            _write(lock, 0)  # and evict nothing, as that would not do
            if partial.exists():
                os.truncate(partial, 0)
            return False

    def _evict(self, idle: list[_Stored], total: int) -> None:
        assert self._limit is not None
        for each in sorted(idle, key=lambda each: each.used_ns):
            if total <= self._limit:
                return
            each.path.unlink(missing_ok=True)
            total -= each.bytes

    def _look(self) -> list[_Stored]:
        # Reservations first: a file that takes its final name while the folder is read is counted by them.
        reserved = {
            lock.name.removesuffix(LOCK): _read(lock)
            for lock in self._folder.glob(f"*{LOCK}")
            if lock.name != COUNTING and is_held(lock)
        }
        stored = {stem: _Stored(self._folder / stem, size, 0, True) for stem, size in reserved.items()}
        for path, stat in _files(self._folder):
            stem = path.name.removesuffix(PARTIAL)
            if stem in reserved:
                stored[stem] = replace(stored[stem], bytes=max(stored[stem].bytes, stat.st_size))
            else:
                stored[path.name] = _Stored(path, stat.st_size, stat.st_mtime_ns, False)
        return list(stored.values())


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        if not path.name.endswith(LOCK):
            with suppress(FileNotFoundError):
                yield path, path.lstat()


def _write(lock: TextIO, size: int) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(str(size))
    lock.flush()


def _read(path: Path) -> int:
    try:
        return int(path.read_text() or 0)
    except FileNotFoundError:
        return 0
