"""The samples that a set of tars offers, with label and key settled before any content is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mixdist.data.faults import Fault
from mixdist.data.index import UNLABELLED
from mixdist.data.indexing.groups import Found, list_shard
from mixdist.data.indexing.labels import MAX_CLASSES, MAX_LABEL, number_labels, read_label
from mixdist.data.indexing.options import IndexOptions
from mixdist.data.packing.keys import OUTSIDE_ASCII, unique_keys
from mixdist.data.packing.pack import progress_bar
from mixdist.data.tar import Member
from mixdist.errors import DataError, UserError


@dataclass(slots=True)
class Candidate:
    """A sample on its way into the index."""

    split: str
    shard: str
    found: Found
    label: int = UNLABELLED
    key: str = ""  #: as the index holds it


@dataclass
class Tally:
    """What became of the samples in the tars: indexed, or counted here."""

    found: int = 0  #: samples that the shards hold, as far as they can be read
    faults: list[Fault] = field(default_factory=list)  #: samples left out
    broken: list[Fault] = field(default_factory=list)  #: shards that cannot be read to their end
    unclosed: list[str] = field(default_factory=list)  #: shards without the closing blocks of a tar
    left_out: Counter[str] = field(default_factory=Counter)  #: members never opened, by extension


class Reader:
    """Reads members of shards; keeps the last shard open, as they are asked for in turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shard = ""
        self._file: BinaryIO | None = None

    def __call__(self, shard: str, member: Member) -> bytes:
        """Return the content of a member.

        Raises:
            DataError: the shard cannot be read any more.
        """
        try:
            if self._file is None or shard != self._shard:
                self.close()
                self._shard, self._file = shard, (self._folder / shard).open("rb")
            self._file.seek(member.offset)
            return self._file.read(member.size)
        except OSError as error:
            raise DataError(f"{self._folder / shard} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the open shard."""
        if self._file is not None:
            self._file.close()


@contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    """Give a reader of the shards of a folder."""
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.close()


def list_candidates(folder: Path, splits: dict[str, list[str]], options: IndexOptions, tally: Tally) -> list[Candidate]:
    """Read the headers of all shards and return their samples in the order of splits and shards."""
    candidates: list[Candidate] = []
    shards = [(split, name) for split, names in splits.items() for name in names]
    with progress_bar("reading") as progress:
        for split, name in progress.track(shards, description="headers"):
            listing = list_shard(folder / name, name, options)
            tally.found += len(listing.samples) + len(listing.faults)
            tally.faults += listing.faults
            tally.left_out += listing.left_out
            tally.unclosed += [name] if listing.unclosed else []
            tally.broken += [listing.broken] if listing.broken is not None else []
            candidates += [Candidate(split, name, found) for found in listing.samples]
    return candidates


def label_candidates(
    folder: Path, candidates: list[Candidate], given: tuple[str, ...] | None, options: IndexOptions, tally: Tally
) -> tuple[list[Candidate], tuple[str, ...]]:
    """Set the labels; return the candidates without those whose label is wrong, and the class names.

    Raises:
        UserError: no sample has the label that an option asks for, or the labels make too many classes.
        DataError: a shard cannot be read.
    """
    texts: list[str | None] = []
    readable: list[Candidate] = []
    with reading(folder) as read:
        for candidate in candidates:
            try:
                texts.append(_label_text(read, candidate, options))
                readable.append(candidate)
            except ValueError as error:
                tally.faults.append(fault("bad label", candidate, str(error)))
    if readable and (options.label_field or options.label_text) and not any(text is not None for text in texts):
        where = f"a field {options.label_field} in a .json member" if options.label_field else "a .txt member"
        raise UserError(f"no sample of {folder} has {where}; leave the option out for a set without labels")
    classes, numbers = number_labels(texts, given)
    if len(classes) > MAX_CLASSES:
        raise UserError(f"the labels make {len(classes)} classes, over the limit of {MAX_CLASSES}; are they captions?")
    labelled = []
    for candidate, number in zip(readable, numbers, strict=True):
        if isinstance(number, str):
            tally.faults.append(fault("bad label", candidate, number))
        else:
            candidate.label = number
            labelled.append(candidate)
    return labelled, classes


def _label_text(read: Reader, candidate: Candidate, options: IndexOptions) -> str | None:
    member = candidate.found.label
    if member is None:
        return None
    if member.size > MAX_LABEL:
        raise ValueError(f"a label member of {member.size} bytes, over the limit of {MAX_LABEL}")
    return read_label(read(candidate.shard, member), options.label_field)


def name_candidates(candidates: list[Candidate], options: IndexOptions, tally: Tally) -> list[Candidate]:
    """Set the keys; return the candidates without those whose key another shard of the split has already."""
    named: list[Candidate] = []
    first: dict[tuple[str, str], str] = {}
    for candidate in candidates:
        place = candidate.split, candidate.found.key
        if place in first and not options.rename_doubled:
            message = f"the key is in {first[place]} already; --rename-doubled numbers such keys"
            tally.faults.append(fault("doubled key", candidate, message))
            continue
        first.setdefault(place, candidate.shard)
        named.append(candidate)
    for split in dict.fromkeys(candidate.split for candidate in named):
        own = [candidate for candidate in named if candidate.split == split]
        for candidate, key in zip(own, unique_keys((each.found.key for each in own), OUTSIDE_ASCII), strict=True):
            candidate.key = key
    return named


def fault(reason: str, candidate: Candidate, message: str) -> Fault:
    """Return what is wrong with a candidate."""
    return Fault(reason, candidate.shard, f"sample {candidate.found.key!a}: {message}")
