"""SampleReader: the samples of one split, read in place and decoded into the rows of an array. No torch, no ranks.

A shard is mapped into memory and never extracted. A JPEG that has the wanted size already is decoded straight into
its row; everything else goes through `decode` and `fit`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

from mixdist.data.decode import decode, fit
from mixdist.data.fetch import Fetcher, differs
from mixdist.data.index import Split
from mixdist.keyed import Ids

CENTRE = -1  # the epoch of evaluation: a clip is read at its middle

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Unread:
    """Why a sample could not be read."""

    row: int  #: of the batch
    sample: int
    reason: str  #: "checksum" or "undecodable"
    detail: str

    def says(self) -> str:
        """Return what is wrong, to follow the sample's name."""
        return f": {self.detail}" if self.reason == "checksum" else f" cannot be decoded: {self.detail}"


class SampleReader:
    """Random access to the decoded samples of a split."""

    def __init__(self, split: Split, size: int, frames: int = 1, seed: int = 0) -> None:
        self._split, self._size = split, size
        self._frames, self._seed = frames, seed
        self._fetch = Fetcher(split)

    def __call__(self, ids: Ids, epoch: int, out: Pixels) -> list[Unread]:
        """Read the samples ``ids`` into ``out`` [len(ids), frames, size, size, 3].

        Rows that cannot be read become zero. ``epoch`` decides where a clip is read; a still image is repeated.

        Raises:
            DataError: a shard that cannot be opened.
        """
        rows = self._split.index[ids]
        direct = (rows["height"] == self._size) & (rows["width"] == self._size) & (rows["frames"] == 1)
        columns = (rows[name].tolist() for name in ("shard", "offset", "size", "crc32"))
        unread: list[Unread] = []
        for row, (shard, offset, size, crc32, whole) in enumerate(zip(*columns, direct.tolist(), strict=True)):
            content = self._fetch.shard(shard)[offset : offset + size]
            try:
                if zlib.crc32(content) != crc32:
                    raise _ChecksumError(differs(offset, size))
                if not (whole and _decoded_in_place(content, out[row, 0])):
                    out[row, 0] = fit(decode(content), self._size)
                out[row, 1:] = out[row, 0]
            except ValueError as error:
                out[row] = 0
                reason = "checksum" if isinstance(error, _ChecksumError) else "undecodable"
                unread.append(Unread(row, int(ids[row]), reason, " ".join(str(error).split())))
        return unread


class _ChecksumError(ValueError):
    """The bytes are not those that were packed."""


def _decoded_in_place(content: memoryview, row: Pixels) -> bool:
    """Decode a JPEG of the row's size into the row; False where it is something else, which `decode` then judges."""
    if bytes(content[:2]) != b"\xff\xd8":
        return False
    try:
        image = simplejpeg.decode_jpeg(content, "RGB", buffer=row)
    except ValueError:  # broken, larger than the index says, or CMYK
        return False
    return bool(image.shape == row.shape)
