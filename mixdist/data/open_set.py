"""Open a packed set: its manifest, which may be a stranger's, and its mapped indexes, held against each other.

The folder may be remote (docs/remote.md): the manifest is read as it is now, the indexes are copied to the node, and a
shard follows when it is first asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any, TypeAlias

import numpy as np

from mixdist.data.index import FORMAT, MANIFEST, VERSION, PackedSet, Shard, Split, index_dtype
from mixdist.data.index_rows import check_rows, hash_rows
from mixdist.data.manifest import check_fields, inside
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.place import Place
from mixdist.data.remote.urls import join
from mixdist.errors import DataError, MixdistError
from mixdist.files import write_text
from mixdist.locks import locked

Index: TypeAlias = "np.memmap[Any, np.dtype[np.void]]"
MAX_MANIFEST = 64 << 20  # bytes: some 400,000 shards


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
        raise DataError(f"{place.folder} {_what_it_is(place.folder)}")
    return path.read_text(encoding="utf-8")


def _what_it_is(folder: Path) -> str:
    """Say of a place without a manifest what it is, and how a set is made: of its images or tars, or there."""
    given = quote(str(folder))
    if not folder.exists():
        return f"does not exist; make one with: mixdist pack SOURCE {given}"
    if not folder.is_dir():
        return f"is a file, not the folder of a packed set; make one of it with: mixdist pack {given} OUT"
    tars = any(path.suffix == ".tar" for path in folder.iterdir())
    command = f"mixdist index {given}" if tars else f"mixdist pack {given} OUT"
    return f"has no {MANIFEST}, so it is not a packed set; make one of it with: {command}"


def _open_split(place: Place, name: str, entry: dict[str, Any], classes: int) -> Split:
    shards = tuple(_shard(shard) for shard in entry["shards"])
    file = place.describe(entry["index"])
    index = _open_index(place, entry)
    fields = index.dtype.names == index_dtype(1).names and index.dtype == index_dtype(index.dtype["key"].itemsize)
    if not fields or index.ndim != 1 or len(index) != entry["samples"]:
        raise DataError(
            f"{file} does not fit {place.describe(MANIFEST)} (fields or number of samples); pack the set again"
        )
    stamp = sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
    split = Split(name=name, place=place, shards=shards, rows_sha256=hash_rows(index), index=index, stamp=stamp)
    if not split.remote:
        for number in range(len(shards)):
            split.shard_path(number)
    check_rows(split, file, classes)
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
