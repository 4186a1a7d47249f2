"""One remote file into one local file: continued after a drop, tried again a bounded number of times, verified."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import BinaryIO

from mixdist.data.remote.transport import BLOCK, Body, DroppedError, RefusedError, open_at
from mixdist.data.remote.urls import redact
from mixdist.errors import DataError, MixdistError, UserError

PROGRESS = 1 << 20  # bytes after which a line that drops again and again starts with all its attempts


@dataclass(frozen=True)
class Retry:
    """When to give up. The pauses double: about 100 s in all before the default gives up."""

    attempts: int = 8  #: further tries after one that brought less than ``PROGRESS``
    base_s: float = 0.5
    ceiling_s: float = 30.0
    stall_s: float = 30.0  #: seconds without a byte that count as a drop

    def pause_s(self, failures: int, asked_s: float) -> float:
        """Return the pause after the given number of failures: exponential, a random half of it left off.

        The jitter keeps the ranks of a job from returning to a server in step. What the server asked for counts
        up to the ceiling.
        """
        pause = min(self.ceiling_s, self.base_s * float(2 ** (failures - 1)))
        return max(pause * random.uniform(0.5, 1.0), min(asked_s, self.ceiling_s))


@dataclass(frozen=True)
class Wanted:
    """A remote file and what is known of it beforehand."""

    url: str
    size: int | None
    sha256: str | None

    def check(self) -> None:
        """Refuse a size or a checksum that cannot be one with a ``DataError``."""
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise DataError(f"{redact(self.url)}: sha256 should be 64 lower-case hexadecimal digits")
        if self.size is not None and self.size < 0:
            raise DataError(f"{redact(self.url)}: {self.size} bytes cannot be; a size is 0 or more")


class StoppedError(Exception):
    """The caller asked a download to stop; what has arrived stays for the next one."""


class ChangedError(DataError):
    """The server has another file than the one that is wanted, by its size or checksum."""


class _MismatchError(Exception):
    """What arrived is not what is wanted; the text says "expected …, found …"."""


def download(
    wanted: Wanted,
    file: BinaryIO,
    retry: Retry,
    sleep: Callable[[float], None],
    reserve: Callable[[int], None],
    stop: Event | None,
) -> None:
    """Bring ``file`` (open to read and write; what it holds is continued) to the verified content of ``wanted``.

    Args:
        reserve: called with the size, before the first byte is written, where the size was not known beforehand.

    Raises:
        DataError: no such file, or (ChangedError) twice, from byte 0 on, not the content that is wanted.
        UserError: the server refuses (access, URL), or does not say how long the file is.
        MixdistError: the connection failed too often.
        StoppedError: ``stop`` was set.
    """
    part, name = _Part(wanted, file, retry.stall_s, reserve, stop), redact(wanted.url)
    failures = mismatches = 0
    while True:
        before = part.position
        try:
            part.complete()
            return
        except RefusedError as error:
            kind = DataError if error.missing else UserError
            raise kind(f"{name} cannot be read: {error}; check the address and the access to it") from None
        except _MismatchError as error:
            part.restart()
            mismatches += 1
            if mismatches == 2:  # the first may be a left-over of an older file or a one-time fault
                raise ChangedError(f"{name} is not the file that is wanted: {error}; upload the set again") from None
        except DroppedError as error:
            failures = 1 if part.position - before >= PROGRESS else failures + 1
            if failures > retry.attempts:
                raise MixdistError(f"{name} cannot be read, given up after {failures} attempts: {error}") from None
            pause_s = retry.pause_s(failures, error.wait_s)
            if stop is None:
                sleep(pause_s)
            elif stop.wait(pause_s):
                raise StoppedError from None


class _Part:
    """The part of a file that has arrived, and its running checksum."""

    def __init__(
        self, wanted: Wanted, file: BinaryIO, stall_s: float, reserve: Callable[[int], None], stop: Event | None
    ) -> None:
        self.position = 0
        self._wanted, self._file, self._stall_s, self._reserve, self._stop = wanted, file, stall_s, reserve, stop
        self._size: int | None = wanted.size
        self._version: str | None = None
        self._digest = hashlib.sha256()
        if wanted.size is None or wanted.sha256 is None:
            self.restart()  # nothing would tell a left-over of an older file
        self._take_in()

    def restart(self) -> None:
        """Begin again at byte 0."""
        self._file.seek(0)
        self._file.truncate()
        self.position, self._digest = 0, hashlib.sha256()
        self._size, self._version = self._wanted.size, None  # a file of unknown size may have become another one

    def complete(self) -> None:
        """Fetch what is missing and verify the whole."""
        if self._size is None or self.position < self._size:
            self._heed_stop()  # it may have come while another process was waited for
            same = self._wanted.sha256 or self._version  # without either, the rest may be of another file
            start = self.position if same else 0
            body = open_at(self._wanted.url, start, self._version, self._stall_s)
            with closing(body):
                self._begin(body)
                self._receive(body)
        self._verify()

    def _take_in(self) -> None:
        """Run the checksum over what an earlier process left."""
        self._file.seek(0)
        while block := self._file.read(BLOCK):
            self._digest.update(block)
            self.position += len(block)

    def _begin(self, body: Body) -> None:
        if self._size is None:
            if body.total is None:
                raise UserError(
                    f"{redact(self._wanted.url)}: the server does not say how long the file is, so a broken one could "
                    f"not be told from a whole one; use a server that sends Content-Length"
                )
            self._reserve(body.total)
            self._size = body.total
        if body.total not in (None, self._size):
            raise _MismatchError(f"expected {self._size} bytes, found {body.total}")
        if body.start != self.position:
            size = self._size
            self.restart()
            self._size = size
        self._version = body.version

    def _receive(self, body: Body) -> None:
        assert self._size is not None
        while self.position < self._size:
            self._heed_stop()
            block = body.read()
            if not block:
                raise DroppedError(f"the connection ended at byte {self.position} of {self._size}")
            if len(block) > self._size - self.position:
                raise _MismatchError(f"expected {self._size} bytes, found more")
            self._file.write(block)
            self._digest.update(block)
            self.position += len(block)
        if body.total is None and body.read():
            raise _MismatchError(f"expected {self._size} bytes, found more")

    def _heed_stop(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise StoppedError

    def _verify(self) -> None:
        if self.position != self._size:
            raise _MismatchError(f"expected {self._size} bytes, found {self.position}")
        found = self._digest.hexdigest()
        if self._wanted.sha256 not in (None, found):
            raise _MismatchError(f"expected sha256 {self._wanted.sha256}, found {found}")
