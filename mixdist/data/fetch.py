"""Encoded bytes of a sample, read in place: shards are mapped into memory and never extracted."""

from __future__ import annotations

import mmap
import zlib
from pathlib import Path

from mixdist.data.index import Split
from mixdist.errors import DataError


class Fetcher:
    """Random access to the images of one split, by sample id. Safe to share between threads."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._maps = [_map(split.folder / shard.name) for shard in split.shards]

    def __call__(self, sample: int) -> bytes:
        """Return the encoded image of a sample.

        Raises:
            DataError: the bytes are not those that were packed (checksum).
        """
        row = self._split.index[sample]
        start, size = int(row["offset"]), int(row["size"])
        content = self._maps[int(row["shard"])][start : start + size]
        if zlib.crc32(content) != int(row["crc32"]):
            raise DataError(
                f"{self._split.describe(sample)}: checksum differs from the index (bytes {start} to {start + size}); "
                f"the shard was changed or damaged after packing, copy or pack it again"
            )
        return content


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
