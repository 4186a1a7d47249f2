"""Read a table that lists images or videos and their labels: a CSV, TSV or Parquet file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from mixdist.data.faults import Fault
from mixdist.data.index import UNLABELLED
from mixdist.data.packing.folders import TEST_NAMES, Sample, is_video
from mixdist.data.packing.parquet import parquet_rows
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.text_table import text_rows
from mixdist.data.packing.unusable import UNUSABLE, refuse, refuse_emptied
from mixdist.errors import DataError, UserError, nearest

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
PATH, LABEL, SPLIT = "path", "label", "split"
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class _Row:
    place: str  #: the table's name and the line, for messages
    file: str  #: as the table has it
    path: str  #: the same below the root, normalised
    label: str  #: a class name; empty for an unlabelled image
    split: str


def is_table(source: str) -> bool:
    """Tell by its extension whether a source is taken for a table."""
    return PurePath(source).suffix.lower() in TABLE_SUFFIXES


def read_table(table: Path, reading: Reading) -> tuple[tuple[str, ...], dict[str, list[Sample]], tuple[Fault, ...]]:
    """List the classes, by split the samples, and the rows that cannot be used; no image is read.

    Samples are sorted by class and path, so that the order of the rows decides nothing; unlabelled ones come last, so
    that they do not change which of the others are drawn for a share.

    Raises:
        UserError: there is no such table or root.
        DataError: naming the table and the lines that cannot be used, without ``skip_bad``; or none can.
    """
    root = table.parent if reading.root is None else reading.root
    if not table.is_file():
        raise UserError(f"SOURCE {table} does not exist or is no file")
    if not root.is_dir():
        raise UserError(f"--root {root} is not a folder; give the folder that the table's paths are relative to")
    bad: list[Fault] = []
    rows = list(_rows(table, root, reading, bad))
    if not rows and not bad:
        raise DataError(f"{table} has no rows below its header; add one for each image")
    if not reading.skip_bad:
        refuse(str(table), bad)  # before the orphans, which bad rows may have made
    orphans = _orphans(rows)
    if not reading.skip_bad:
        refuse(str(table), list(orphans.values()))
    bad += orphans.values()
    classes = _classes(rows)
    splits = {}
    for name in SPLITS:
        samples = [_sample(row, root, classes) for row in rows if row.split == name and row.place not in orphans]
        if samples:
            splits[name] = sorted(samples, key=_place)
    if "train" not in splits:
        refuse_emptied(str(table), "for train", bad)
    return tuple(classes), splits, tuple(bad)


def _place(sample: Sample) -> tuple[bool, int, str, str]:
    return sample.label == UNLABELLED, sample.label, sample.key, sample.path


def _rows(table: Path, root: Path, reading: Reading, bad: list[Fault]) -> Iterator[_Row]:
    """Yield the rows that can be used; what is wrong with the others is added to ``bad``."""
    names = (reading.path_column or PATH, reading.label_column or LABEL, SPLIT)
    binary, base = table.suffix.lower() == ".parquet", str(root)
    cells = parquet_rows(table, names) if binary else text_rows(table)
    header = next(cells, (1, []))[1]
    columns = _columns(table, header, reading)
    first: dict[str, str] = {}
    tested: set[str] = set()
    for line, row in cells:
        place = f"{table}, {'row' if binary else 'line'} {line}: "
        try:
            if len(row) != len(header):
                raise ValueError(
                    f"{len(row)} cells where the header has {len(header)}; quote cells that hold the separator"
                )
            file, label, split = (row[column] if column is not None else "train" for column in columns)
            path = os.path.normpath(os.path.join(base, file))  # noqa: PTH118 (a million rows: Path is 10x slower)
            found = _Row(place, file, path, label.strip(), _split(split.strip().lower(), tested))
            _check(found, root)
            if first.setdefault(path, place) is not place:
                raise ValueError(f"{file} is given twice, first in {first[path].rstrip(': ')}; keep one")
            yield found
        except ValueError as error:
            bad.append(Fault(UNUSABLE, place, f"{place}{error}"))
    if len(tested) > 1:
        raise DataError(
            f"{table} has more than one split to test on ({', '.join(sorted(tested))}); keep the rows of one"
        )


def _columns(table: Path, header: list[str], reading: Reading) -> tuple[int, int, int | None]:
    """Return where the header has the path, the label and, if it does, the split."""
    found = []
    for option, given, name in (("path", reading.path_column, PATH), ("label", reading.label_column, LABEL)):
        name = given or name
        if name not in header:
            raise DataError(
                f"{table} has no column '{name}' (its first line has: {', '.join(header) or 'nothing'}); name the "
                f"column by --{option}-column{nearest(name, header)}"
            )
        found.append(name)
    twice = [name for name in (*found, SPLIT) if header.count(name) > 1]
    if twice:
        raise DataError(f"{table} has more than one column '{twice[0]}'; keep one")
    path, label = (header.index(name) for name in found)
    return path, label, header.index(SPLIT) if SPLIT in header and SPLIT not in found else None


def _split(given: str, tested: set[str]) -> str:
    """Return "test" for what a folder to test on may be called too; all rows of a table should call it alike."""
    if given not in TEST_NAMES:
        return given
    tested.add(given)
    return "test"


def _check(row: _Row, root: Path) -> None:
    """Raise ``ValueError`` where a row cannot be used."""
    if not row.file:
        raise ValueError("the path is empty; give the image's path or remove the line")
    if "\0" in row.file:
        raise ValueError(f"the path {row.file!r} holds a zero byte; repair it")
    if not os.path.isfile(row.path):  # noqa: PTH113
        raise ValueError(f"{row.path} does not exist or is no file; paths are relative to --root ({root})")
    if not row.label.isprintable():
        raise ValueError(f"label {row.label!r} is not printable text; rename the class")
    if row.label == "-1":
        raise ValueError("label -1 may mean a class or none; leave the cell empty for an unlabelled image")
    if row.split not in SPLITS:
        hint = nearest(row.split, ["train", *TEST_NAMES])
        raise ValueError(f"split '{row.split}' is unknown; it should be train or one of {', '.join(TEST_NAMES)}{hint}")
    if row.split == "test" and not row.label:
        raise ValueError("a test image needs a label; add it, or put the image into train")


def _orphans(rows: list[_Row]) -> dict[str, Fault]:
    """Return by its place what is wrong with a test row whose class has no labelled train row."""
    names = {row.label for row in rows if row.split == "train"}
    message = "class {} has test images but no labelled train image; add one or remove the line"
    return {
        row.place: Fault(UNUSABLE, row.place, f"{row.place}{message.format(row.label)}")
        for row in rows
        if row.split == "test" and row.label not in names
    }


def _classes(rows: list[_Row]) -> dict[str, int]:
    """Return the class numbers by name: sorted, by number where all names are whole numbers."""
    names = {row.label for row in rows if row.label and row.split == "train"}
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return {name: number for number, name in enumerate(sorted(names, key=lambda name: (int(name), name)))}
    return {name: number for number, name in enumerate(sorted(names))}


def _sample(row: _Row, root: Path, classes: dict[str, int]) -> Sample:
    stem = os.path.splitext(row.path)[0]  # noqa: PTH122
    metadata = f"{stem}.json" if os.path.isfile(f"{stem}.json") else None  # noqa: PTH113
    name = os.path.splitext(row.file)[0]  # noqa: PTH122
    if os.path.isabs(name):  # noqa: PTH117
        name = os.path.relpath(name, root)  # the set does not tell where it was packed
    label = classes[row.label] if row.label else UNLABELLED
    video = row.path if is_video(row.path) else None
    return Sample(os.path.normpath(name), label, row.path, metadata, origin=row.place, video=video)
