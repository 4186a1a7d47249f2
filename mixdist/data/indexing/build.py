"""`mixdist index`: the tars of another webdataset tool -> manifest and indexes beside them, read in place."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mixdist.data.faults import Fault, raise_faults
from mixdist.data.index import MANIFEST, Shard
from mixdist.data.indexing.candidates import (
    Candidate,
    Tally,
    fault,
    label_candidates,
    list_candidates,
    name_candidates,
    reading,
)
from mixdist.data.indexing.division import draw_test, find_shards
from mixdist.data.indexing.groups import CLIP, IMAGE
from mixdist.data.indexing.labels import read_classes
from mixdist.data.indexing.options import IndexOptions
from mixdist.data.packing.encode import Encoded, examine
from mixdist.data.packing.measure import Measure
from mixdist.data.packing.pack import in_order, progress_bar, write_manifest
from mixdist.data.packing.shards import Member, index_row, write_index
from mixdist.data.packing.staging import is_packed_set
from mixdist.data.packing.videos import examine_clip
from mixdist.errors import DataError, UserError
from mixdist.files import sha256_of

KIND = "tars"  # the manifest's source.kind


@dataclass
class Rows:
    """One split's part of the index."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)  #: fields as in ``index_dtype``
    shards: dict[str, int] = field(default_factory=dict)  #: samples by shard, in the order of their numbers
    measure: Measure = field(default_factory=Measure)

    def add(self, candidate: Candidate, encoded: Encoded) -> None:
        """Add a sample, after those of the shards before it."""
        self.shards[candidate.shard] = self.shards.get(candidate.shard, 0) + 1
        member = Member(candidate.key, candidate.label, encoded)
        self.rows.append(index_row(member, len(self.shards) - 1, candidate.found.content.offset))
        self.measure.add(encoded)


def index_tars(folder: Path, options: IndexOptions) -> tuple[dict[str, Any], Tally]:
    """Write manifest.json and SPLIT.index.npy into a folder of tars, which stay as they are.

    Returns:
        The manifest, and what was left out: samples of the splits + faults = samples found.

    Raises:
        UserError: the folder or an option cannot be used, a set stands there already, or clips have no ffmpeg.
        DataError: a sample or shard is bad (without ``skip_bad``), or no sample is left.
    """
    options.check()
    _check_target(folder, options.overwrite)
    given = None if options.classes is None else read_classes(options.classes)
    splits = find_shards(folder, options)
    tally = Tally()
    candidates = list_candidates(folder, splits, options, tally)
    candidates, classes = label_candidates(folder, candidates, given, options, tally)
    candidates = name_candidates(candidates, options, tally)
    _move_to_test(candidates, classes, options)
    found = _read(folder, candidates, options.workers, tally)
    if not options.skip_bad:
        raise_faults(folder, tally.broken + tally.faults)
    for split in splits:
        if split not in found:
            first = (tally.broken + tally.faults)[:1]
            why = f"; the first was left out because: {first[0].message}" if first else ""
            raise DataError(f"{folder} holds no usable sample for {split}{why}")
    return _write(folder, found, classes, options), tally


def _check_target(folder: Path, overwrite: bool) -> None:
    path = folder / MANIFEST
    if not path.exists():
        return
    if not is_packed_set(folder):
        raise UserError(f"{path} is not the manifest of a set, so even --overwrite leaves it alone; move it away")
    source = json.loads(path.read_bytes()).get("source")
    if not isinstance(source, dict) or source.get("kind") != KIND:
        raise UserError(f"{folder} is a set that mixdist pack made; it has its index already")
    if not overwrite:
        raise UserError(f"{folder} has an index already; add --overwrite to make it again")


def _move_to_test(candidates: list[Candidate], classes: tuple[str, ...], options: IndexOptions) -> None:
    train = [candidate for candidate in candidates if candidate.split == "train"]
    for row in draw_test([candidate.label for candidate in train], classes, options):
        train[row].split = "test"


def _read(folder: Path, candidates: list[Candidate], workers: int, tally: Tally) -> dict[str, Rows]:
    """Decode each image and each clip once; return the index rows by split, train first."""
    found: dict[str, Rows] = {}
    with closing(in_order(_examine, _contents(folder, candidates), workers)) as results, progress_bar("reading") as bar:
        shown = bar.track(results, total=len(candidates), description="samples")
        for candidate, result in zip(candidates, shown, strict=True):
            if isinstance(result, Fault):
                tally.faults.append(result)
            else:
                found.setdefault(candidate.split, Rows()).add(candidate, result)
    return dict(sorted(found.items(), reverse=True))


def _contents(folder: Path, candidates: list[Candidate]) -> Generator[tuple[Candidate, bytes]]:
    with reading(folder) as read:
        for candidate in candidates:
            yield candidate, read(candidate.shard, candidate.found.content)


def _examine(item: tuple[Candidate, bytes]) -> Encoded | Fault:
    candidate, content = item
    clip = candidate.found.clip
    try:
        return examine_clip(content) if clip else examine(content)
    except ValueError as error:
        return fault(f"undecodable {CLIP if clip else IMAGE}", candidate, str(error))


def _write(folder: Path, found: dict[str, Rows], classes: tuple[str, ...], options: IndexOptions) -> dict[str, Any]:
    names = dict.fromkeys(name for split in found.values() for name in split.shards)
    with progress_bar("reading") as bar:
        hashes = {name: sha256_of(folder / name) for name in bar.track(names, description="checksums")}
    entries = {}
    try:
        (folder / MANIFEST).unlink(missing_ok=True)  # from here on there is no set, until all is written
        (folder / "test.index.npy").unlink(missing_ok=True)  # of an earlier index; train's is replaced in any case
        for split, part in found.items():
            shards = [
                Shard(name, (folder / name).stat().st_size, samples, hashes[name])
                for name, samples in part.shards.items()
            ]
            entries[split] = write_index(folder, split, part.rows, shards, classes)
        measures = {split: part.measure for split, part in found.items()}
        source = {"kind": KIND, "name": folder.resolve().name}
        return write_manifest(folder, classes, measures, entries, source, _recorded(options))
    except OSError as error:
        raise UserError(f"the index cannot be written to {folder}: {error}") from error


def _recorded(options: IndexOptions) -> dict[str, Any]:
    """Return the options that decide what the index holds."""
    passed_over = ("overwrite", "workers", "classes")
    return {name: value for name, value in asdict(options).items() if name not in passed_over}
