"""Samples against their CRC-32, by decoding, and as digests that duplicates are found by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mixdist.data.decode import decode
from mixdist.data.faults import Fault
from mixdist.data.fetch import Fetcher
from mixdist.data.index import Split
from mixdist.data.video.probe import probe
from mixdist.errors import DataError
from mixdist.keyed import Ids, make_key, permutation

Rows = npt.NDArray[np.bool_]  #: which samples of a split; shape [samples]


@dataclass
class Looked:
    """What samples were found to be."""

    faults: list[Fault] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)  #: SHA-256 of the content, by row


def chosen_to_decode(split: Split, count: int | None, seed: int) -> Ids:
    """Return the rows to decode: ``count`` images and clips drawn by the seed, or all of them for None."""
    return np.sort(permutation(make_key(seed, f"check/{split.name}"), len(split.index))[:count])


def look_at(split: Split, fetch: Fetcher, rows: Ids, decoded: Rows, digested: Rows) -> Looked:
    """Read samples again: those whose bytes changed or that do not decode to what the index says, and digests.

    Args:
        split: whose samples they are.
        fetch: reads them.
        rows: which of its samples.
        decoded: samples that are decoded too.
        digested: samples whose content is wanted as a digest.
    """
    looked = Looked()
    for row in rows.tolist():
        try:
            content = fetch(row)
        except DataError as error:
            looked.faults.append(Fault("changed sample", _shard(split, row), str(error)))
            continue
        if digested[row]:
            looked.digests[row] = hashlib.sha256(content).digest()
        if decoded[row] and (fault := _decode_fault(split, row, content)):
            looked.faults.append(fault)
    return looked


def _decode_fault(split: Split, sample: int, content: bytes) -> Fault | None:
    row = split.index[sample]
    said = f"{row['width']} x {row['height']} pixels, {row['frames']} frames, {row['milliseconds']} ms"
    try:
        found = _decoded(content, bool(row["milliseconds"]))
    except ValueError as error:
        return Fault("undecodable image", _shard(split, sample), f"{split.describe(sample)}: {error}")
    if found != said:
        return Fault("another size", _shard(split, sample), f"{split.describe(sample)}: {found}, the index says {said}")
    return None


def _decoded(content: bytes, clip: bool) -> str:
    """Decode an image, or a whole clip, and say what it is."""
    if clip:
        found = probe(content)
        return f"{found.width} x {found.height} pixels, {found.frames} frames, {found.milliseconds} ms"
    height, width = decode(content).shape[:2]
    return f"{width} x {height} pixels, 1 frames, 0 ms"


def _shard(split: Split, sample: int) -> str:
    return split.shards[int(split.index["shard"][sample])].name
