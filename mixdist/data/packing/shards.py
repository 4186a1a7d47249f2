"""Write the shards and the index of one split: plain USTAR tars that webdataset reads and mixdist seeks in."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixdist.data.index import UNLABELLED, Shard, index_dtype
from mixdist.data.packing.encode import Encoded
from mixdist.files import atomic, sha256_of

SMALLEST_TAR = tarfile.RECORDSIZE  # bytes: a tar is padded to a multiple of this


@dataclass(frozen=True, slots=True)
class Member:
    """One sample on its way into a shard."""

    key: str
    label: int  #: -1 writes no .cls member
    encoded: Encoded

    @property
    def files(self) -> list[tuple[str, bytes]]:
        """Names and contents of what a shard holds of the sample; the image comes first."""
        files = [(f"{self.key}.{self.encoded.extension}", self.encoded.content)]
        if self.label != UNLABELLED:
            files.append((f"{self.key}.cls", str(self.label).encode()))
        if self.encoded.metadata is not None:
            files.append((f"{self.key}.json", self.encoded.metadata))
        return files


@dataclass
class Limits:
    """How much a shard holds; called with each sample in turn, it gives the number of the sample's shard."""

    samples: int
    bytes: int | None = None  #: of the tar file; a single sample that needs more has a shard of its own
    _shard: int = field(default=0, init=False)
    _samples: int = field(default=0, init=False)
    _blocks: int = field(default=2, init=False)  # a tar ends with two empty ones

    def __call__(self, member: Member) -> int:
        """Return the number of the shard into which the next sample goes."""
        blocks = sum(1 + -(-len(content) // tarfile.BLOCKSIZE) for _, content in member.files)  # header, content
        full = self._samples == self.samples or (
            self.bytes is not None and _padded(self._blocks + blocks) > self.bytes and self._samples > 0
        )
        if full:
            self._shard, self._samples, self._blocks = self._shard + 1, 0, 2
        self._samples += 1
        self._blocks += blocks
        return self._shard


def _padded(blocks: int) -> int:
    return -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def write_split(
    folder: Path, split: str, members: Iterable[Member], limits: Limits, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Write the members, at least one, as shards within ``limits``, then the index; return the manifest's entry.

    A shard takes its name only when it is complete.
    """
    shards: list[Shard] = []
    rows: list[tuple[Any, ...]] = []
    for number, waiting in groupby(members, limits):
        path = folder / f"{split}-{number:06d}.tar"
        before = len(rows)
        with atomic(path) as file:
            rows += _write_tar(file, number, waiting)
        shards.append(Shard(path.name, path.stat().st_size, len(rows) - before, sha256_of(path)))
    return write_index(folder, split, rows, shards, classes)


def write_index(
    folder: Path, split: str, rows: list[tuple[Any, ...]], shards: list[Shard], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Write the index of a split (``rows`` as ``index_dtype`` has them, at least one); return the manifest's entry."""
    index = np.array(rows, dtype=index_dtype(max(len(row[0]) for row in rows)))
    index_path = folder / f"{split}.index.npy"
    with atomic(index_path) as file:
        np.save(file, index, allow_pickle=False)
    per_class = np.bincount(index["label"][index["label"] != UNLABELLED], minlength=len(classes))
    return {
        "index": index_path.name,
        "index_bytes": index_path.stat().st_size,
        "index_sha256": sha256_of(index_path),
        "samples": len(index),
        "labelled": int(per_class.sum()),
        "per_class": dict(zip(classes, per_class.tolist(), strict=True)),
        "shards": [asdict(shard) for shard in shards],
    }


def _write_tar(file: BinaryIO, number: int, members: Iterable[Member]) -> Iterator[tuple[Any, ...]]:
    """Write one tar and yield the index row of each sample; the fields are those of ``index_dtype``."""
    # webdataset's TarWriter ignores its format argument and writes PAX headers, which triple a set of small images.
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members:
            offset = file.tell() + tarfile.BLOCKSIZE  # a USTAR header is one block, as MAX_KEY keeps names short
            for name, content in member.files:
                _add(tar, name, content)
            yield index_row(member, number, offset)


def index_row(member: Member, shard: int, offset: int) -> tuple[Any, ...]:
    """Return the index row of a sample whose image begins at byte ``offset`` of a shard: ``index_dtype``'s fields."""
    encoded = member.encoded
    size, crc32 = len(encoded.content), zlib.crc32(encoded.content)
    pixels = (encoded.height, encoded.width, encoded.frames, encoded.milliseconds)
    return member.key.encode(), shard, offset, size, member.label, crc32, *pixels


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)  # its defaults: time 0, owner 0, mode 0644, no names
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))
