"""Write the shards and the index of one split: plain USTAR tars that webdataset reads and mixdist seeks in."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixdist.data.index import UNLABELLED, Shard, index_dtype
from mixdist.data.packing.encode import Encoded
from mixdist.files import atomic


@dataclass(frozen=True, slots=True)
class Member:
    """One sample on its way into a shard."""

    key: str
    label: int  #: -1 writes no .cls member
    encoded: Encoded


def write_split(
    folder: Path, split: str, members: Iterable[Member], count: int, shard_size: int, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Write ``count`` members as shards of ``shard_size`` samples, then the index, and return the manifest's entry.

    A shard takes its name only when it is complete.
    """
    waiting = iter(members)
    shards: list[Shard] = []
    rows: list[tuple[Any, ...]] = []
    for number in range(-(-count // shard_size)):
        path = folder / f"{split}-{number:06d}.tar"
        before = len(rows)
        with atomic(path) as file:
            rows += _write_tar(file, number, islice(waiting, shard_size))
        shards.append(Shard(path.name, path.stat().st_size, len(rows) - before, _sha256(path)))
    index = np.array(rows, dtype=index_dtype(max(len(row[0]) for row in rows)))
    index_path = folder / f"{split}.index.npy"
    with atomic(index_path) as file:
        np.save(file, index, allow_pickle=False)
    per_class = np.bincount(index["label"][index["label"] != UNLABELLED], minlength=len(classes))
    return {
        "index": index_path.name,
        "index_bytes": index_path.stat().st_size,
        "index_sha256": _sha256(index_path),
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
            encoded = member.encoded
            offset = file.tell() + tarfile.BLOCKSIZE  # a USTAR header is one block, as MAX_KEY keeps names short
            _add(tar, f"{member.key}.{encoded.extension}", encoded.content)
            if member.label != UNLABELLED:
                _add(tar, f"{member.key}.cls", str(member.label).encode())
            if encoded.metadata is not None:
                _add(tar, f"{member.key}.json", encoded.metadata)
            size, crc32 = len(encoded.content), zlib.crc32(encoded.content)
            pixels = (encoded.height, encoded.width, encoded.frames, encoded.milliseconds)
            yield member.key.encode(), number, offset, size, member.label, crc32, *pixels


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)  # its defaults: time 0, owner 0, mode 0644, no names
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
