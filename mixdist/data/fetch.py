"""Encoded bytes of a sample, read in place: shards are mapped into memory and never extracted."""

from __future__ import annotations

import mmap
import zlib
from threading import Lock

from mixdist.data.index import Split
from mixdist.errors import DataError

MAPPED = 256  # most shards that stay mapped


class Fetcher:
    """Random access to the content of one split. Safe to share between threads."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._maps: dict[int, memoryview] = {}  # the longest mapped first
        self._most = _most_mapped(split)
        self._changing = Lock()

    def __call__(self, sample: int) -> bytes:
        """Return the encoded image of a sample.

        Raises:
            DataError: the bytes are not those that were packed (checksum), or the shard cannot be opened.
        """
        row = self._split.index[sample]
        start, size = int(row["offset"]), int(row["size"])
        content = bytes(self.shard(int(row["shard"]))[start : start + size])
        if zlib.crc32(content) != int(row["crc32"]):
            raise DataError(f"{self._split.describe(sample)}: {differs(start, size)}; copy or pack the shard again")
        return content

    def shard(self, number: int) -> memoryview:
        """Return a whole shard, mapped when it is first asked for; the one that was mapped first makes room for it.

        Raises:
            DataError: it cannot be opened.
        """
        view = self._maps.get(number)
        if view is None:
            view = self._map(number)
            with self._changing:
                while len(self._maps) >= self._most:
                    del self._maps[next(iter(self._maps))]  # mapping it again costs some 20 us
                self._maps[number] = view
        return view

    def _map(self, number: int) -> memoryview:
        try:
            with self._split.open_shard(number) as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise DataError(f"{self._split.describe_shard(number)} cannot be read: {error}") from error


def _most_mapped(split: Split) -> int:
    """Return how many shards may stay mapped: of a remote set no more than its cache may hold.

    A shard that is mapped keeps its room on the disk when the cache evicts it. The cache holds two windows of shards
    that are read at a time, or more, so those that a reader still needs stay mapped as well.
    """
    cache = split.place.cache
    if cache is None or cache.limit_bytes is None:
        return MAPPED
    return min(MAPPED, max(1, cache.limit_bytes // max(shard.bytes for shard in split.shards)))


def differs(start: int, size: int) -> str:
    """Say that the bytes of a sample are not those that were packed."""
    return f"checksum differs from the index (bytes {start} to {start + size})"
