"""Tars without an index as an endless stream of images without labels, for D_ssl.

This mode is neither exact nor elastic. Without an index nobody knows how many samples there are or where they lie, so
there is no epoch to visit each sample once, no global position to resume at, and no equal share for a rank. Shards are
drawn with replacement instead: some samples come twice before others come once, a restart begins again, and another
number of ranks sees another order. `mixdist index` makes an exact set of the same shards.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from webdataset.tariterators import group_by_keys

from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.urls import is_remote, redact
from mixdist.errors import DataError
from mixdist.keyed import bits, make_key

SUFFIXES = ("jpg", "jpeg", "png", "webp")  # all else in a tar is passed over unread
MAX_MEMBER = 64 << 20  # bytes of one image, and the most that is ever read at once


def resampled(
    urls: Sequence[str],
    cache: NodeCache,
    seed: int,
    purpose: str,
    rank: int,
    world_size: int,
    on_bad: Callable[[DataError], None] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield (key, encoded image) without end, from shards drawn with replacement; see the module for what it is not.

    The n-th shard of a rank is a function of (seed, purpose, n · world_size + rank).

    Args:
        urls: of tars, or their local paths; see `urls.expand`.
        cache: for the remote ones.
        seed: of the run.
        purpose: another one draws other shards.
        rank: of this process.
        world_size: number of ranks.
        on_bad: called with the error of a shard or an image that cannot be read, after which the stream goes on; where
            it is None the error is raised.

    Raises:
        DataError: no shards; or so many bad ones in a row that there seem to be no others.
    """
    if not urls:
        raise DataError("there are no shards to draw from; name one at least")
    key, bad = make_key(seed, purpose), 0
    for draw in count(rank, world_size):
        url = urls[int(bits(key, np.array([draw]))[0, 0]) % len(urls)]
        errors: list[DataError] = []
        found = False
        for item in _images(url, cache):
            if isinstance(item, DataError):
                errors.append(item)
                _report(item, on_bad)
            else:
                found = True
                yield item
        bad = 0 if found else bad + 1
        if bad > 10 + 4 * len(urls):
            raise DataError(
                f"none of the last {bad} shards drawn has an image that can be read; the last: {errors[-1]}"
            )


def _report(error: DataError, on_bad: Callable[[DataError], None] | None) -> None:
    if on_bad is None:
        raise error
    on_bad(error)


def _images(url: str, cache: NodeCache) -> Iterator[tuple[str, bytes] | DataError]:
    """Yield the images of one shard, and an error for each that is not one."""
    name, found = redact(url), False
    try:
        with cache.open(url, None, None) if is_remote(url) else _open(Path(url)) as file:
            bounded: Any = _Bounded(file)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:  # ":" is no compression: gz would unpack unbounded
                for key, member in _members(tar, bounded, name):
                    found = True
                    if not 1 <= member.size <= MAX_MEMBER:
                        limits = f"an image has 1 to {MAX_MEMBER}"
                        yield DataError(f"member '{member.name}' in {name} has {member.size} bytes; {limits}")
                        continue
                    file.seek(member.offset_data)
                    yield key, file.read(member.size)
    except DataError as error:
        yield error
    except (OSError, ValueError, OverflowError, RecursionError, tarfile.TarError) as error:
        reason = error.args[0] if error.args and isinstance(error, ValueError) else error
        yield DataError(f"shard {name} cannot be read as a plain tar: {reason}")
    else:
        if not found:
            yield DataError(f"shard {name} has no image ({' '.join(SUFFIXES)})")


def _open(path: Path) -> BinaryIO:
    """Open a local shard; a pipe would be waited for, a device may have no end."""
    if path.exists() and not path.is_file():
        raise DataError(f"shard {path} is not a file; give a tar")
    return path.open("rb")


def _members(tar: Any, file: BinaryIO, name: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield (key, member) of the images, keys and suffixes as webdataset tells them apart.

    webdataset groups the headers; its reader of members and its URL openers are not used, as the one loads a member
    before its size can be asked, and the others run commands.
    """
    files = ({"fname": member.name, "data": member, "__url__": name} for member in _headers(tar, file))
    for sample in group_by_keys(files):
        for member in sample.values():
            if isinstance(member, tarfile.TarInfo):
                yield sample["__key__"], member


def _headers(tar: Any, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of the images: no links, no sparse files, whose sizes are not what is stored."""
    before = -1
    while (member := tar.next()) is not None:
        if tar.offset <= before:  # a negative size would go round in circles
            raise ValueError(f"the header at byte {member.offset} leads backwards")
        before, tar.members = tar.offset, []  # tarfile would keep them all
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        if plain and member.name.rpartition(".")[2].lower() in SUFFIXES:
            yield member
    file.seek(tar.offset)
    if any(file.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged header for the end, which is zeros
        raise ValueError(f"damaged header at byte {tar.offset}")


class _Bounded:
    """A file that refuses to read more than ``MAX_MEMBER`` at once: tarfile believes the sizes of extended headers."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes."""
        if not 0 <= size <= MAX_MEMBER:
            raise ValueError(f"a header asks for {size} bytes")
        return self._file.read(size)
