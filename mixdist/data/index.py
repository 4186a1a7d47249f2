"""The shard index: where every sample of a packed set lies, and what the set is as a whole.

A packed set is a folder: ``manifest.json`` (written last: a folder without it is not a set), one
``SPLIT.index.npy`` and the shards ``SPLIT-000000.tar`` … of each split ("train", and "test" where there is one).
The index is a NumPy structured array, a row a sample in the order of the shards; the row number is the sample id
that all randomness is keyed by. docs/data.md states the format for readers of other languages.

The folder may be remote (docs/remote.md): the manifest is read as it is now, the indexes are copied to the node, and a
shard follows when it is first asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from mixdist.data.manifest import check_fields, inside
from mixdist.data.remote.locks import locked
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.place import Place
from mixdist.data.remote.urls import join
from mixdist.errors import DataError, MixdistError
from mixdist.files import write_text

FORMAT = "mixdist-set"
VERSION = 2
MANIFEST = "manifest.json"
UNLABELLED = -1

Index: TypeAlias = "np.memmap[Any, np.dtype[np.void]]"
MAX_MANIFEST = 64 << 20  # bytes: some 400,000 shards
ROWS = 1 << 16  # that are checked at a time, so that a large index takes no memory


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
    index: npt.NDArray[np.void] = field(repr=False)  #: see ``index_dtype``; read-only, memory-mapped

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

    @property
    def fingerprint(self) -> list[str]:
        """Hashes of the shards and of the index: the same shards may be indexed with other labels or another split."""
        return [*(shard.sha256 for shard in self.shards), sha256(self.index.tobytes()).hexdigest()]

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

    @property
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


def open_set(location: str | Path, cache: NodeCache | None = None) -> PackedSet:
    """Read the manifest and map the indexes of a packed set; no shard is read.

    Args:
        location: a folder, or the URL of one (https://host/set, s3://bucket/set).
        cache: where files of a remote set are kept on this node.

    Raises:
        DataError: no set there, another format version, a missing or shortened shard, or an index that contradicts
            the manifest (labels out of range included).
        UserError: a location that is not read, or a remote one without a cache; see `NodeCache.fetch` for more.
        MixdistError: the connection failed too often.
    """
    place = Place.of(location, cache)
    manifest = _read_manifest(place)
    try:
        check_fields(manifest)
        classes = tuple(manifest["classes"])
        splits = {name: _open_split(place, name, entry, len(classes)) for name, entry in manifest["splits"].items()}
        size = manifest["image_size"]
        return PackedSet(
            place=place,
            classes=classes,
            mean=tuple(manifest["mean"]),
            std=tuple(manifest["std"]),
            image_size=None if size is None else (size[0], size[1]),
            splits=splits,
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{place.describe(MANIFEST)}: field {error} is missing or malformed; pack the set again"
        ) from error


def _read_manifest(place: Place) -> dict[str, Any]:
    path = place.describe(MANIFEST)
    try:
        text = _manifest_text(place)
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); pack the set again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f'{path} is not the manifest of a packed set ("format" should be "{FORMAT}")')
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{path} has format version {manifest.get('version')}, this mixdist reads {VERSION}; pack the set again"
        )
    if place.cache:
        place.folder.mkdir(parents=True, exist_ok=True)
        with locked(place.folder / "manifest.lock"):
            write_text(place.folder / MANIFEST, text)
    return manifest


def _manifest_text(place: Place) -> str:
    if place.cache:
        return place.cache.read(join(place.location, MANIFEST), MAX_MANIFEST).decode()
    path = place.folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json, so it is not a packed set" if place.folder.is_dir() else "does not exist"
        raise DataError(f"{place.folder} {what}; make one with: mixdist pack SOURCE {place.folder}")
    return path.read_text(encoding="utf-8")


def _open_split(place: Place, name: str, entry: dict[str, Any], classes: int) -> Split:
    shards = tuple(_shard(shard) for shard in entry["shards"])
    file = place.describe(entry["index"])
    index = _open_index(place, entry)
    fields = index.dtype.names == index_dtype(1).names and index.dtype == index_dtype(index.dtype["key"].itemsize)
    if not fields or index.ndim != 1 or len(index) != entry["samples"]:
        raise DataError(
            f"{file} does not fit {place.describe(MANIFEST)} (fields or number of samples); pack the set again"
        )
    split = Split(name=name, place=place, shards=shards, index=index)
    if not split.remote:
        for number in range(len(shards)):
            split.shard_path(number)
    _check_rows(split, file, classes)
    return split


def _open_index(place: Place, entry: dict[str, Any]) -> Index:
    name = inside(entry["index"])
    if not place.cache:
        return _mapped(name, place, lambda: _map(place.folder / name))
    url, size, digest = join(place.location, name), entry["index_bytes"], entry["index_sha256"]
    cache = place.cache
    return _mapped(name, place, lambda: cache.use(url, size, digest, _map))


def _mapped(name: str, place: Place, read: Callable[[], Index]) -> Index:
    try:
        return read()
    except MixdistError:
        raise
    except Exception as error:  # NumPy's reader of damaged headers raises what Python's own parser raises
        raise DataError(f"{place.describe(name)} cannot be read ({error}); pack the set again") from error


def _map(path: Path) -> Index:
    index = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(index, np.memmap):  # an archive of several arrays
        raise ValueError("it is not one array")
    return index


def _shard(entry: dict[str, Any]) -> Shard:
    """Return a shard of the manifest, which may come from a stranger's server."""
    shard = Shard(**entry)
    inside(shard.name)
    numbers = (shard.bytes, shard.samples)
    if any(type(number) is not int or number < 0 for number in numbers) or not re.fullmatch(
        "[0-9a-f]{64}", shard.sha256
    ):
        raise TypeError(f"'shards' ({shard.name})")
    return shard


def _check_rows(split: Split, file: str, classes: int) -> None:
    """Check every row, reading the file in blocks: a walk through the map would make all of it resident."""
    sizes = np.array([shard.bytes for shard in split.shards], dtype=np.uint64)
    counts = np.zeros(len(sizes), np.int64)
    for start, rows in _blocks(split.index):
        shard = rows["shard"]
        if shard.max() >= len(sizes) or not _within(rows, sizes[shard]):
            raise DataError(f"{file} points outside the shards that the manifest names; pack the set again")
        counts += np.bincount(shard, minlength=len(sizes))
        _check_labels(split, rows["label"], start, classes)
    if counts.tolist() != [shard.samples for shard in split.shards]:
        raise DataError(f"{file} points outside the shards that the manifest names; pack the set again")


def _blocks(index: npt.NDArray[np.void]) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
    """Yield (first row, rows) of a mapped index, read from its file."""
    assert isinstance(index, np.memmap)
    dtype = index_dtype(index.dtype["key"].itemsize)
    with Path(str(index.filename)).open("rb") as file:
        file.seek(index.offset)
        for start in range(0, len(index), ROWS):
            content = file.read(min(ROWS, len(index) - start) * index.itemsize)
            yield start, np.frombuffer(content, dtype)


def _within(rows: npt.NDArray[np.void], sizes: npt.NDArray[np.uint64]) -> bool:
    offset, size = rows["offset"], rows["size"]
    return bool(((offset <= sizes) & (size <= sizes - offset)).all())  # a sum could pass 2^64 and come out small


def _check_labels(split: Split, labels: npt.NDArray[np.int32], start: int, classes: int) -> None:
    wrong = np.flatnonzero((labels < UNLABELLED) | (labels >= classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"label {labels[first]} of {split.describe(start + first)} is out of range: the set has {classes} "
            f"classes, so labels are 0 to {classes - 1} (or no label)"
        )
