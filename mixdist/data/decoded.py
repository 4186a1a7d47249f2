"""Decoded samples in files that the processes of a node share, and later runs: one folder, one limit, oldest first out.

NAME.u8 holds the pixels; NAME.json, written last, the samples that could not be read. Who reads a file holds it, so
that only one that nobody uses makes room.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from mixdist.data.reading.reader import Unread
from mixdist.errors import UserError
from mixdist.files import write_json
from mixdist.locks import in_use, locked, share, touch

PIXELS, LISTED, PARTIAL, LOCK = ".u8", ".json", ".partial", ".lock"
COUNTING = "counting.lock"


class Decode(Protocol):
    """Fills flat pixels."""

    def __call__(self, images: torch.Tensor, alive: Callable[[], None]) -> list[Unread]:
        """Return what could not be read; calls ``alive`` all along."""
        ...


@dataclass(frozen=True)
class Decoded:
    """A file of decoded samples, mapped."""

    images: torch.Tensor  #: uint8, flat
    unread: list[Unread]
    held: BinaryIO  #: keeps the file from being evicted until it is closed


def open_decoded(
    folder: Path, name: str, size: int, limit_bytes: int | None, decode: Decode, alive: Callable[[], None]
) -> Decoded:
    """Map a file of decoded samples, after making it where it is missing; waits while another process makes it.

    Args:
        folder: of all such files of the node.
        name: of this one, without a suffix.
        size: bytes of the pixels.
        limit_bytes: what the folder may hold, files that are being made included; None for no limit.
        decode: fills the flat pixels and returns what could not be read; calls what it is given all along.
        alive: called all along, here while the file is made, and where another process makes it as that one gets on.

    Raises:
        UserError: the limit is too small, or what is in use leaves too little of it.
        OSError: the file cannot be written.
    """
    path, listed = folder / f"{name}{PIXELS}", folder / f"{name}{LISTED}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(LOCK), touched=alive) as lock:

        def gets_on() -> None:
            alive()
            touch(lock)

        if not (path.is_file() and listed.is_file()):
            write_json(listed, [asdict(one) for one in _make(path, size, limit_bytes, partial(decode, alive=gets_on))])
        held = share(path)
        os.utime(path)  # its last use
        unread = [Unread(**one) for one in json.loads(listed.read_text())]
    return Decoded(torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8), unread, held)


def _make(
    path: Path, size: int, limit_bytes: int | None, decode: Callable[[torch.Tensor], list[Unread]]
) -> list[Unread]:
    made = path.with_suffix(PARTIAL)
    for left in (path, made, path.with_suffix(LISTED)):
        left.unlink(missing_ok=True)  # by a killed process
    try:
        with locked(path.parent / COUNTING):
            if limit_bytes is not None:
                _make_room(path.parent, size, limit_bytes)
            with made.open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # a disk that is full only later would kill the process
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    os.truncate(file.fileno(), size)
        unread = decode(torch.from_file(str(made), shared=True, size=size, dtype=torch.uint8))
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)  # gone where it was renamed
    return unread


def _make_room(folder: Path, size: int, limit_bytes: int) -> None:
    """Evict what nobody uses, the least recently used first, until ``size`` bytes more are within the limit."""
    stored = []
    for path in folder.iterdir():
        if path.suffix in (PIXELS, PARTIAL):
            with suppress(FileNotFoundError):
                stored.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    total = size + sum(each for _, each, _ in stored)
    for _, each, path in sorted(stored):
        if total > limit_bytes and size <= limit_bytes and _removed(path):
            total -= each
    if total > limit_bytes:
        others = f", and {total - size:,} are in use" if total > size else ""
        raise UserError(
            f"data.cache disk: a decoded set needs {size:,} bytes in {folder}{others}, but data.cache_limit_gb allows "
            f"{limit_bytes:,} in all; raise it, or use data.cache none"
        )


def _removed(path: Path) -> bool:
    """Remove a decoded set, or what a killed process left of one, unless somebody makes or uses it."""
    try:
        with locked(path.with_suffix(LOCK), wait=False):
            if in_use(path):
                return False
            path.with_suffix(LISTED).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    return True
