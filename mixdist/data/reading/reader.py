"""SampleReader: the samples of one split, read in place and decoded into the rows of an array. No torch, no ranks.

A shard is mapped into memory and never extracted. A JPEG that has the wanted size already is decoded straight into
its row; everything else goes through `decode` and `fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32 as crc32_of

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
        self._index = split.index.view(np.ndarray)  # np.memmap does work of its own at every look-up

    def __call__(self, ids: Ids, epoch: int, out: Pixels) -> list[Unread]:
        """Read the samples ``ids`` into ``out`` [len(ids), frames, size, size, 3].

        Rows that cannot be read become zero. ``epoch`` decides where a clip is read; a still image is repeated.

        Raises:
            DataError: a shard that cannot be opened.
            UserError: a clip, and no ffmpeg.
        """
        rows = self._index[ids]
        whole = (rows["height"] == self._size) & (rows["width"] == self._size) & (rows["milliseconds"] == 0)
        columns = (rows[name].tolist() for name in ("shard", "offset", "size", "crc32"))
        unread: list[Unread] = []
        # About 5 us a sample around the 28 us that decoding 64 x 64 pixels takes: keep it short.
        for row, (shard, offset, size, crc32, direct, target) in enumerate(
            zip(*columns, whole.tolist(), out[:, 0], strict=True)
        ):
            content = self._fetch.shard(shard)[offset : offset + size]
            try:
                if crc32_of(content) != crc32:
                    raise _ChecksumError(differs(offset, size))
                if not (direct and _decoded_in_place(content, target)):
                    out[row] = self._decoded(content, rows[row], int(ids[row]), epoch)
            except ValueError as error:
                out[row] = 0
                reason = "checksum" if isinstance(error, _ChecksumError) else "undecodable"
                where = (
                    self._split.describe_shard(shard),
                    rows["key"][row].decode("ascii", "backslashreplace"),
                    offset,
                )
                unread.append(Unread(row, int(ids[row]), *where, reason, " ".join(str(error).split())))
        if self._frames > 1:
            out[whole, 1:] = out[whole, :1]
        return unread

    def _decoded(self, content: memoryview, row: np.void, sample: int, epoch: int) -> Pixels:
        """Decode what is not an image of the wanted size: a clip, or an image to be scaled."""
        frames = int(row["frames"])
        if not row["milliseconds"]:
            return fit(decode(content), self._size)
        if epoch == CENTRE:
            (start,) = centre_frame([frames], self._frames)
        else:
            (start,) = first_frame(self._seed, epoch, np.array([sample]), [frames], self._frames)
        return load_clip(content, int(start), self._frames, self._size, frames)


class _ChecksumError(ValueError):
    """The bytes are not those that were packed."""


def _decoded_in_place(content: memoryview, row: Pixels) -> bool:
    """Decode a JPEG of the row's size into the row; False where it is something else, which `decode` then judges."""
    try:
        image = simplejpeg.decode_jpeg(content, "RGB", buffer=row)
    except ValueError:  # no JPEG, broken, larger than the index says, or CMYK
        return False
    return bool(image.shape == row.shape)
