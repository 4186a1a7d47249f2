"""The shard index: where every sample of a packed set lies, and what the set is as a whole.

A packed set is a folder: ``manifest.json`` (written last: a folder without it is not a set), one
``SPLIT.index.npy`` and the shards ``SPLIT-000000.tar`` … of each split ("train", and "test" where there is one).
The index is a NumPy structured array, a row a sample in the order of the shards; the row number is the sample id
that all randomness is keyed by. docs/data.md states the format for readers of other languages.

The folder may be remote (docs/remote.md): the manifest is read as it is now, the indexes are copied to the node, and a
shard follows when it is first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mixdist.data.remote.place import Place
from mixdist.data.remote.urls import join
from mixdist.errors import DataError

FORMAT = "mixdist-set"
VERSION = 2
MANIFEST = "manifest.json"
UNLABELLED = -1


def index_dtype(key_length: int) -> np.dtype[np.void]:
    """Return the row type of an index whose longest key has ``key_length`` bytes."""
    return np.dtype(
        [
            ("key", f"S{max(key_length, 1)}"),  # ASCII, unique in its split: the webdataset __key__
            ("shard", "<u4"),  # row of the split's shard list
            ("offset", "<u8"),  # first byte of the image's content in the shard, past its tar header
            ("size", "<u4"),  # bytes of the image's content
            ("label", "<i4"),  # class number, or -1 for an unlabelled sample
            ("crc32", "<u4"),  # zlib.crc32 of the image's content
            ("height", "<u2"),  # pixels, as stored
            ("width", "<u2"),
            ("frames", "<u4"),  # 1 for a still image, the number of frames of a video clip
            ("milliseconds", "<u4"),  # length of a video clip, 0 for a still image
        ]
    )


@dataclass(frozen=True)
class Shard:
    """One tar file of a split."""

    name: str  #: file name inside the set's folder
    bytes: int
    samples: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """One split of a packed set: its samples and the shards that hold them."""

    name: str
    place: Place
    shards: tuple[Shard, ...]
    rows_sha256: str  #: of the index's rows; see ``hash_rows``
    index: npt.NDArray[np.void] = field(repr=False)  #: see ``index_dtype``; read-only, memory-mapped
    stamp: str  #: hash of its entry in the manifest, which holds the checksums of shards and index: read in no time

    @property
    def folder(self) -> Path:
        """See `PackedSet.folder`."""
        return self.place.folder

    @property
    def remote(self) -> bool:
        """Whether the shards have to be brought to this machine first."""
        return self.place.cache is not None

    def shard_path(self, number: int, stop: Event | None = None) -> Path:
        """Return a local path of a shard by number; a remote one is downloaded and verified when first asked for.

        A remote shard may be evicted when others are asked for; what has it open or mapped by then keeps it. To open
        one without that race use `open_shard`.

        Raises:
            DataError: it is missing, or its size or checksum is not the manifest's.
            MixdistError: the connection failed too often; see `NodeCache.fetch` for more.
        """
        shard = self.shards[number]
        return self.place.path(shard.name, shard.bytes, shard.sha256, stop)

    def open_shard(self, number: int) -> BinaryIO:
        """Return a shard by number, open to read. Raises as `shard_path`."""
        shard = self.shards[number]
        if self.place.cache:
            return self.place.cache.open(join(self.place.location, shard.name), shard.bytes, shard.sha256)
        return self.shard_path(number).open("rb")

    def forget_shard(self, number: int) -> None:
        """Remove the copy of a remote shard from this machine; what has it open or mapped keeps it."""
        shard = self.shards[number]
        if self.place.cache:
            self.place.cache.forget(join(self.place.location, shard.name), shard.sha256)

    @property
    def fingerprint(self) -> list[str]:
        """Hashes of the shards and of the index: the same shards may be indexed with other labels or another split."""
        return [*(shard.sha256 for shard in self.shards), self.rows_sha256]

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Class numbers of all samples, -1 where unlabelled; shape [samples]."""
        labels: npt.NDArray[np.int32] = self.index["label"]
        return labels

    def describe_shard(self, number: int) -> str:
        """Name a shard for an error message."""
        return self.place.describe(self.shards[number].name)

    def describe(self, sample: int) -> str:
        """Name a sample for an error message: its key and the shard that holds it."""
        row = self.index[sample]
        shard = self.describe_shard(int(row["shard"]))
        return f"sample '{row['key'].decode('ascii', 'backslashreplace')}' in {shard}"


@dataclass(frozen=True)
class PackedSet:
    """A packed set as its manifest and indexes describe it."""

    place: Place
    classes: tuple[str, ...]  #: class names; the label is the position in it. Empty for a set without labels
    mean: tuple[float, ...]  #: of each of R, G, B over the train split, in [0, 1]
    std: tuple[float, ...]
    image_size: tuple[int, int] | None  #: (height, width) where all images of the set share it
    splits: dict[str, Split]

    @property
    def location(self) -> str:
        """Where the set lies, as messages show it: a folder, or a URL without secrets."""
        return self.place.name

    @property
    def folder(self) -> Path:
        """The set's folder; of a remote set the folder on this machine that holds its manifest, named as the set is."""
        return self.place.folder

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all shards and of what the indexes make of them, the same wherever the set lies."""
        hashes = [part for name in sorted(self.splits) for part in self.splits[name].fingerprint]
        return sha256(" ".join(hashes).encode()).hexdigest()[:16]

    def split(self, name: str) -> Split:
        """Return a split by name.

        Raises:
            DataError: the set has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"{self.location} has no {name} split (it has: {', '.join(self.splits)}); "
                f"pack it again with --test-fraction, or from a source with train and test folders"
            )
        return self.splits[name]
