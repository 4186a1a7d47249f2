"""Read every byte of a split again: shards against their SHA-256, samples against their CRC-32, images by decoding."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np

from mixdist.data.decode import decode
from mixdist.data.faults import Fault
from mixdist.data.fetch import Fetcher
from mixdist.data.index import PackedSet, Split
from mixdist.data.packing.pack import in_order, progress_bar
from mixdist.data.video.probe import probe
from mixdist.errors import DataError
from mixdist.files import sha256_of
from mixdist.keyed import Ids, make_key, permutation

CHUNK = 256  # samples of one task: a task for each would cost as much as reading a small image


def shard_faults(packed: PackedSet) -> tuple[int, list[Fault]]:
    """Return how many shards the set has, and those whose content is not what the manifest says.

    A shard that several splits point into is read once.
    """
    shards = {shard.name: shard for split in packed.splits.values() for shard in split.shards}
    faults = []
    with progress_bar("checking") as bar:
        for shard in bar.track(list(shards.values()), description="shards"):
            if sha256_of(packed.folder / shard.name) != shard.sha256:
                message = "its SHA-256 is not that of the manifest; the shard was changed or damaged"
                faults.append(Fault("changed shard", shard.name, message))
    return len(shards), faults


def chosen_to_decode(split: Split, count: int | None, seed: int) -> Ids:
    """Return the rows to decode: ``count`` images and clips drawn by the seed, or all of them for None."""
    return np.sort(permutation(make_key(seed, f"check/{split.name}"), len(split.index))[:count])


def sample_faults(split: Split, fetch: Fetcher, decoded: Ids, workers: int) -> list[Fault]:
    """Return the samples of a split whose bytes changed, or which do not decode to what the index says.

    Args:
        split: whose samples are all read.
        fetch: reads them.
        decoded: rows that are decoded too, ascending.
        workers: threads.
    """
    wanted = np.zeros(len(split.index), bool)
    wanted[decoded] = True

    def check(rows: Ids) -> list[Fault]:
        found = (_sample_fault(split, fetch, int(row), bool(wanted[row])) for row in rows)
        return [fault for fault in found if fault is not None]

    chunks = np.array_split(np.arange(len(wanted)), max(1, -(-len(wanted) // CHUNK)))
    with closing(in_order(check, chunks, workers)) as results, progress_bar("checking") as bar:
        return [fault for found in bar.track(results, total=len(chunks), description=split.name) for fault in found]


def _sample_fault(split: Split, fetch: Callable[[int], bytes], sample: int, decoded: bool) -> Fault | None:
    row = split.index[sample]
    shard = split.shards[int(row["shard"])].name
    said = f"{row['width']} x {row['height']} pixels, {row['frames']} frames, {row['milliseconds']} ms"
    try:
        content = fetch(sample)
        found = _looked_at(content, bool(row["milliseconds"])) if decoded else said
    except DataError as error:
        return Fault("changed sample", shard, str(error))
    except ValueError as error:
        return Fault("undecodable image", shard, f"{split.describe(sample)}: {error}")
    if found != said:
        return Fault("another size", shard, f"{split.describe(sample)}: {found}, the index says {said}")
    return None


def _looked_at(content: bytes, clip: bool) -> str:
    """Decode an image, or a whole clip, and say what it is."""
    if clip:
        found = probe(content)
        return f"{found.width} x {found.height} pixels, {found.frames} frames, {found.milliseconds} ms"
    height, width = decode(content).shape[:2]
    return f"{width} x {height} pixels, 1 frames, 0 ms"
