"""The cache of remote files on a node: one folder, one download a file, one limit, shared by all of its processes.

Files are named after their content (sha256) where that is known, else after their URL; a file that has its name is
whole. Processes meet through locks on files only: nothing is left in shared memory, and a killed process blocks nobody.
"""

from __future__ import annotations

import functools
import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256 as sha256_of
from pathlib import Path
from threading import Event
from typing import BinaryIO, TypeVar

from mixdist.data.remote.download import Retry, Wanted, download
from mixdist.data.remote.room import LOCK, PARTIAL, Room
from mixdist.data.remote.urls import base_name, redact
from mixdist.errors import DataError, UserError
from mixdist.locks import locked

Result = TypeVar("Result")


class NodeCache:
    """Local copies of remote files. Safe to share between threads, and any number may share a folder.

    Args:
        folder: on a local disk of the node; made where it is missing.
        limit_bytes: what the folder may hold, arriving files included; None for no limit.
        retry: when to give up.
        sleep: how to wait; tests pass one that does not.

    Raises:
        UserError: a limit below 1, or a folder that cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int | None,
        *,
        retry: Retry = Retry(),  # noqa: B008  (frozen)
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if limit_bytes is not None and limit_bytes < 1:
            raise UserError(f"the limit of the cache {folder} is {limit_bytes} bytes; it should be 1 or more")
        self.folder, self.limit_bytes = folder, limit_bytes
        self._retry, self._sleep = retry, sleep
        self._files = folder / "files"
        self._room = Room(self._files, limit_bytes, sleep)
        try:
            self._files.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the cache {folder} cannot be made: {error.strerror}; give another folder") from error

    def fetch(self, url: str, size: int | None, sha256: str | None, stop: Event | None = None) -> Path:
        """Return the path of a local copy, after downloading it where there is none; waits while another process does.

        The copy may be evicted as soon as other files need its room, so open it at once, or by `use`.

        Args:
            url: see `urls.is_remote`.
            size: bytes of the file; None to believe the server.
            sha256: of its content in hexadecimal; None to believe what arrives.
            stop: set by another thread, ends a download early; what has arrived is continued by the next.

        Raises:
            DataError: the file is missing, or its size or checksum differs twice.
            UserError: no access, no driver, no room (in the limit or on the disk).
            MixdistError: the connection failed too often.
            StoppedError: ``stop`` was set.
        """
        wanted = Wanted(url, size, sha256)
        wanted.check()
        path = self._files / _file_name(url, sha256)
        if self._is_there(path, size):
            return path
        try:
            self._bring(wanted, path, stop)
        except OSError as error:
            raise UserError(f"the cache {self.folder} cannot be written: {error.strerror or error}") from error
        return path

    def use(self, url: str, size: int | None, sha256: str | None, function: Callable[[Path], Result]) -> Result:
        """Call ``function`` with the path of a local copy; again where it was evicted before it could be opened."""
        while True:
            path = self.fetch(url, size, sha256)
            try:
                return function(path)
            except FileNotFoundError:
                if path.exists():
                    raise

    def open(self, url: str, size: int | None, sha256: str | None) -> BinaryIO:
        """Return a local copy, open to read; it stays readable where it is evicted. Raises as `fetch`."""
        return self.use(url, size, sha256, lambda path: path.open("rb"))

    def forget(self, url: str, sha256: str | None) -> None:
        """Remove a local copy; what has it open or mapped keeps its content."""
        (self._files / _file_name(url, sha256)).unlink(missing_ok=True)

    def read(self, url: str, limit_bytes: int) -> bytes:
        """Return a small remote file as it is now, past the cache. Raises as `fetch`, and DataError over the limit."""

        def reserve(size: int) -> None:
            if size > limit_bytes:
                raise DataError(f"{redact(url)} has {size} bytes; it should have {limit_bytes} at most")

        content = io.BytesIO()
        download(Wanted(url, None, None), content, self._retry, self._sleep, reserve, None)
        return content.getvalue()

    def _bring(self, wanted: Wanted, path: Path, stop: Event | None) -> None:
        """Download under the file's lock, unless another process has done so meanwhile."""
        partial = path.with_name(path.name + PARTIAL)
        name = redact(wanted.url)
        with locked(path.with_name(path.name + LOCK)) as lock:
            if self._is_there(path, wanted.size):
                return
            self._room.reserve(lock, partial, wanted.size or 0, name, stop)
            try:
                with partial.open("a+b") as file:
                    reserve = functools.partial(self._room.reserve, lock, partial, name=name, stop=stop)
                    download(wanted, file, self._retry, self._sleep, reserve, stop)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
            finally:
                _remove_empty(partial)

    @staticmethod
    def _is_there(path: Path, size: int | None) -> bool:
        """Say whether the copy is there; if so it counts as used now."""
        try:
            if size is not None and path.stat().st_size != size:
                path.unlink(missing_ok=True)  # damaged on this disk
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True


def _file_name(url: str, sha256: str | None) -> str:
    name = f"{(sha256 or sha256_of(url.encode()).hexdigest())[:32]}-{base_name(url)}"
    return f"{name}_" if name.endswith((PARTIAL, LOCK)) else name


def _remove_empty(partial: Path) -> None:
    with suppress(FileNotFoundError):
        if partial.stat().st_size == 0:
            partial.unlink()
