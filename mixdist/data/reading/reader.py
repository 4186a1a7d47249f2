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
from mixdist.data.video.frames import load_clip
from mixdist.data.video.positions import centre_frame, first_frame
from mixdist.keyed import Ids

CENTRE = -1  # the epoch of evaluation: a clip is read at its middle

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Unread:
    """Why a sample could not be read."""

    row: int  #: of the batch
    sample: int
    shard: str  #: where the shard lies
    key: str
    offset: int  #: first byte of the content in the shard
    reason: str  #: "checksum" or "undecodable"
    detail: str

    def __str__(self) -> str:
        """Return the sample's name and what is wrong with it."""
        what = f": {self.detail}" if self.reason == "checksum" else f" cannot be decoded: {self.detail}"
        return f"sample '{self.key}' in {self.shard}{what}"


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
            UserError: a clip, and no ffmpeg.
        """
        rows = self._split.index[ids]
        direct = (rows["height"] == self._size) & (rows["width"] == self._size)
        starts = self._starts(ids, epoch, rows["frames"])
        columns = (rows[name].tolist() for name in ("shard", "offset", "size", "crc32", "frames", "milliseconds"))
        unread: list[Unread] = []
        for row, (shard, offset, size, crc32, frames, milliseconds) in enumerate(zip(*columns, strict=True)):
            content = self._fetch.shard(shard)[offset : offset + size]
            try:
                if zlib.crc32(content) != crc32:
                    raise _ChecksumError(differs(offset, size))
                if milliseconds:
                    out[row] = load_clip(content, int(starts[row]), self._frames, self._size, frames)
                else:
                    if not (direct[row] and _decoded_in_place(content, out[row, 0])):
                        out[row, 0] = fit(decode(content), self._size)
                    out[row, 1:] = out[row, 0]
            except ValueError as error:
                out[row] = 0
                reason = "checksum" if isinstance(error, _ChecksumError) else "undecodable"
                where = (
                    self._split.describe_shard(shard),
                    rows["key"][row].decode("ascii", "backslashreplace"),
                    offset,
                )
                unread.append(Unread(row, int(ids[row]), *where, reason, " ".join(str(error).split())))
        return unread

    def _starts(self, ids: Ids, epoch: int, frames: npt.NDArray[np.uint32]) -> Ids:
        """Return the first frame of each visit."""
        if epoch == CENTRE:
            return centre_frame(frames, self._frames)
        return first_frame(self._seed, epoch, ids, frames, self._frames)


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
