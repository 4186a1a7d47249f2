"""The shard index: where every sample of a packed set lies, and what the set is as a whole.

A packed set is a folder: ``manifest.json`` (written last: a folder without it is not a set), one
``SPLIT.index.npy`` and the shards ``SPLIT-000000.tar`` … of each split ("train", and "test" where there is one).
The index is a NumPy structured array, a row a sample in the order of the shards; the row number is the sample id
that all randomness is keyed by. docs/data.md states the format for readers of other languages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mixdist.data.manifest import check_fields
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
    folder: Path
    shards: tuple[Shard, ...]
    index: npt.NDArray[np.void] = field(repr=False)  #: see ``index_dtype``; read-only, memory-mapped

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Class numbers of all samples, -1 where unlabelled; shape [samples]."""
        labels: npt.NDArray[np.int32] = self.index["label"]
        return labels

    def describe(self, sample: int) -> str:
        """Name a sample for an error message: its key and the shard that holds it."""
        row = self.index[sample]
        shard = self.folder / self.shards[int(row["shard"])].name
        return f"sample '{row['key'].decode('ascii', 'backslashreplace')}' in {shard}"


@dataclass(frozen=True)
class PackedSet:
    """A packed set as its manifest and indexes describe it."""

    folder: Path
    classes: tuple[str, ...]  #: class names; the label is the position in it. Empty for a set without labels
    mean: tuple[float, ...]  #: of each of R, G, B over the train split, in [0, 1]
    std: tuple[float, ...]
    image_size: tuple[int, int] | None  #: (height, width) where all images of the set share it
    splits: dict[str, Split]

    @property
    def fingerprint(self) -> str:
        """A short hash of the content of all shards, the same wherever the set lies."""
        hashes = [shard.sha256 for name in sorted(self.splits) for shard in self.splits[name].shards]
        return sha256(" ".join(hashes).encode()).hexdigest()[:16]

    def split(self, name: str) -> Split:
        """Return a split by name.

        Raises:
            DataError: the set has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"{self.folder} has no {name} split (it has: {', '.join(self.splits)}); "
                f"pack it again with --test-fraction, or from a source with train and test folders"
            )
        return self.splits[name]


def open_set(folder: Path) -> PackedSet:
    """Read the manifest and map the indexes of a packed set; no shard is read.

    Raises:
        DataError: no set in this folder, another format version, a missing or shortened shard, or an index that
            contradicts the manifest (labels out of range included).
    """
    manifest = _read_manifest(folder)
    try:
        check_fields(manifest)
        classes = tuple(manifest["classes"])
        splits = {name: _open_split(folder, name, entry, len(classes)) for name, entry in manifest["splits"].items()}
        size = manifest["image_size"]
        return PackedSet(
            folder=folder,
            classes=classes,
            mean=tuple(manifest["mean"]),
            std=tuple(manifest["std"]),
            image_size=None if size is None else (size[0], size[1]),
            splits=splits,
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{folder / MANIFEST}: field {error} is missing or malformed; pack the set again") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json, so it is not a packed set" if folder.is_dir() else "does not exist"
        raise DataError(f"{folder} {what}; make one with: mixdist pack SOURCE {folder}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); pack the set again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f'{path} is not the manifest of a packed set ("format" should be "{FORMAT}")')
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{path} has format version {manifest.get('version')}, this mixdist reads {VERSION}; pack the set again"
        )
    return manifest


def _open_split(folder: Path, name: str, entry: dict[str, Any], classes: int) -> Split:
    path = folder / entry["index"]
    try:
        index: npt.NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's reader of damaged headers raises what Python's own parser raises
        raise DataError(f"{path} cannot be read ({error}); pack the set again") from error
    shards = tuple(Shard(**shard) for shard in entry["shards"])
    fields = index.dtype.names == index_dtype(1).names and index.dtype == index_dtype(index.dtype["key"].itemsize)
    if not fields or len(index) != entry["samples"]:
        raise DataError(f"{path} does not fit {folder / MANIFEST} (fields or number of samples); pack the set again")
    for shard in shards:
        file = folder / shard.name
        size = file.stat().st_size if file.is_file() else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DataError(f"{file} {found}, the manifest says {shard.bytes} bytes; copy or pack the set again")
    split = Split(name=name, folder=folder, shards=shards, index=index)
    _check_rows(split, path, classes)
    return split


def _check_rows(split: Split, path: Path, classes: int) -> None:
    shard = split.index["shard"]
    sizes = np.array([shard.bytes for shard in split.shards], dtype=np.uint64)
    samples = [shard.samples for shard in split.shards]
    inside = shard.max(initial=0) < len(split.shards)
    if (
        not inside
        or np.bincount(shard, minlength=len(samples)).tolist() != samples
        or (split.index["offset"] + split.index["size"] > sizes[shard]).any()
    ):
        raise DataError(f"{path} points outside the shards that the manifest names; pack the set again")
    wrong = np.flatnonzero((split.labels < UNLABELLED) | (split.labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"label {split.labels[first]} of {split.describe(first)} is out of range: the set has {classes} classes, "
            f"so labels are 0 to {classes - 1} (or no label)"
        )
