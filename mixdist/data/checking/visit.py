"""One pass over the shards of a set, one at a time: every byte is read once, and of a remote set one shard is here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from mixdist.data.checking.content import Looked, Rows, look_at
from mixdist.data.faults import Fault
from mixdist.data.fetch import Fetcher
from mixdist.data.index import PackedSet, Split
from mixdist.data.packing.pack import in_order, progress_bar
from mixdist.data.remote.download import ChangedError
from mixdist.errors import MixdistError, UserError
from mixdist.files import sha256_of
from mixdist.keyed import Ids

CHUNK = 256  # samples of one task: a task for each would cost as much as reading a small image
LOST = 3  # shards in a row whose connection failed, with all its attempts: the server is taken to be gone


@dataclass
class Seen:
    """What the pass has found."""

    shards: int  #: how many the set has
    faults: list[Fault] = field(default_factory=list)  #: of whole shards
    samples: dict[str, Looked] = field(default_factory=dict)  #: by split
    unread: Counter[str] = field(default_factory=Counter)  #: samples of each split in shards that could not be had


def visit(packed: PackedSet, decoded: Mapping[str, Rows], digested: Mapping[str, Rows], workers: int) -> Seen:
    """Read all shards: against their SHA-256, and the samples in them (see `look_at`).

    A shard that several splits point into is read once. One that cannot be had is a fault, and the pass goes on. The
    copy of a remote shard is removed as soon as it has been read, so the cache should serve nobody else.

    Args:
        packed: the set.
        decoded: by split, samples that are decoded.
        digested: by split, samples whose content is wanted as a digest.
        workers: threads.
    """
    places = _places(packed)
    seen = Seen(len(places), samples={name: Looked() for name in packed.splits})
    lost = 0
    with progress_bar("checking") as bar:
        for held in bar.track(places, description="shards"):
            split, number, _ = held[0]
            name = split.shards[number].name
            try:
                if lost >= LOST:
                    raise MixdistError(f"not asked for, as the connection failed for {LOST} shards in a row before it")
                _verify(split, number, seen)
            except MixdistError as error:
                seen.faults.append(Fault(_reason(error), name, str(error)))
                seen.unread.update({each.name: len(rows) for each, _, rows in held})
                lost = 0 if isinstance(error, UserError) else lost + 1
                continue
            lost = 0
            for each, _, rows in held:
                _look(each, rows, decoded[each.name], digested[each.name], workers, seen.samples[each.name])
            split.forget_shard(number)
    return seen


def _places(packed: PackedSet) -> list[list[tuple[Split, int, Ids]]]:
    """Return for each shard the splits that point into it, its number there, and the samples that it holds."""
    places: dict[tuple[str, int, str], list[tuple[Split, int, Ids]]] = {}
    for split in packed.splits.values():
        shards = split.index["shard"]
        order = np.argsort(shards, kind="stable")
        ends = np.searchsorted(shards[order], np.arange(len(split.shards)), side="right")
        for number, rows in enumerate(np.split(order, ends[:-1])):
            shard = split.shards[number]
            places.setdefault((shard.name, shard.bytes, shard.sha256), []).append((split, number, rows))
    return list(places.values())


def _verify(split: Split, number: int, seen: Seen) -> None:
    """Bring a shard here; a remote one was verified as it arrived, a local one may be changed and still be read."""
    shard = split.shards[number]
    path = split.shard_path(number)
    if not split.remote and sha256_of(path) != shard.sha256:
        message = "its SHA-256 is not that of the manifest; the shard was changed or damaged"
        seen.faults.append(Fault("changed shard", shard.name, message))


def _reason(error: MixdistError) -> str:
    if isinstance(error, ChangedError):
        return "changed shard"
    return "unreadable shard" if isinstance(error, UserError) else "unreachable shard"


def _look(split: Split, rows: Ids, decoded: Rows, digested: Rows, workers: int, into: Looked) -> None:
    fetch = Fetcher(split)  # of this shard alone: what it maps goes with it
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    looks = in_order(lambda chunk: look_at(split, fetch, chunk, decoded, digested), chunks, workers)
    with closing(looks):
        for looked in looks:
            into.faults += looked.faults
            into.digests |= looked.digests
