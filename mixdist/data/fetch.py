"""Encoded bytes of a sample, read in place: shards are mapped into memory and never extracted."""

from __future__ import annotations

import mmap
import zlib

from mixdist.data.index import Split
from mixdist.errors import DataError

MAPPED = 256  # shards that stay mapped; of a remote set, an older one may leave the node's cache meanwhile


class Fetcher:
    """Random access to the content of one split. Safe to share between threads."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._maps: dict[int, memoryview] = {}

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
        """Return a whole shard, mapped when it is first asked for.

        Raises:
            DataError: it cannot be opened.
        """
        view = self._maps.get(number)
        if view is None:
            if len(self._maps) >= MAPPED:
                self._maps.clear()  # mapping them again costs some 20 us each
            view = self._maps[number] = self._map(number)
        return view

    def _map(self, number: int) -> memoryview:
        try:
            with self._split.open_shard(number) as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise DataError(f"{self._split.describe_shard(number)} cannot be read: {error}") from error


def differs(start: int, size: int) -> str:
    """Say that the bytes of a sample are not those that were packed."""
    return f"checksum differs from the index (bytes {start} to {start + size})"
