"""What the training process and its workers share: the layout of the memory, a worker's setup and its requests."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mixdist.keyed import Ids

_REQUEST = struct.Struct("<qqq")


@dataclass(frozen=True)
class Setup:
    """What a worker reads, for its whole life."""

    location: str  #: of the packed set
    cache: str | None  #: folder on this node for the files of a remote set
    cache_limit: int | None  #: its bytes
    split: str
    stamp: str  #: of the split, as the training process opened it
    size: int  #: side of the decoded square in pixels
    frames: int  #: images of one visit: more than 1 only for clips
    seed: int  #: decides where in a clip a visit begins
    rows: int  #: visits that the shared memory holds

    @property
    def visit_bytes(self) -> int:
        """Bytes of the decoded images of one visit."""
        return self.frames * self.size**2 * 3

    @property
    def memory_bytes(self) -> int:
        """Bytes of the shared memory: a sample id for each row, then the images."""
        return self.rows * (8 + self.visit_bytes)

    def view(self, memory: mmap.mmap) -> tuple[npt.NDArray[np.uint8], Ids]:
        """Return the shared memory as images uint8 [rows, frames, size, size, 3] and sample ids int64 [rows]."""
        ids = np.frombuffer(memory, np.int64, self.rows)
        images = np.frombuffer(memory, np.uint8, self.rows * self.visit_bytes, offset=8 * self.rows)
        return images.reshape(self.rows, self.frames, self.size, self.size, 3), ids


@dataclass(frozen=True)
class Request:
    """Decode the samples whose ids stand at these rows. A few bytes, so that a pipe never fills up."""

    first_row: int
    count: int
    epoch: int  #: 0-based, or `reader.CENTRE`

    def pack(self) -> bytes:
        """Return the request as bytes."""
        return _REQUEST.pack(self.first_row, self.count, self.epoch)

    @staticmethod
    def unpack(content: bytes) -> Request:
        """Read what `pack` made."""
        return Request(*_REQUEST.unpack(content))


def anonymous_file(size: int) -> int:
    """Return the descriptor of a file of ``size`` bytes that has no name.

    On Linux it is memory that does not count against /dev/shm, which containers keep small; elsewhere an unlinked
    temporary file.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mixdist-batches")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
