"""Read a table that lists images or videos and their labels: a CSV, TSV or Parquet file."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from mixdist.data.index import UNLABELLED
from mixdist.data.packing.folders import Sample, is_video
from mixdist.data.packing.parquet import parquet_rows
from mixdist.data.packing.reading import Reading
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


def read_table(table: Path, reading: Reading) -> tuple[tuple[str, ...], dict[str, list[Sample]]]:
    """List the classes and, by split, the samples of a table; no image is read.

    Samples are sorted by class and path, so that the order of the rows decides nothing; unlabelled ones come last, so
    that they do not change which of the others are drawn for a share.

    Raises:
        UserError: there is no such table or root.
        DataError: naming the table and the line, where it cannot be used.
    """
    root = table.parent if reading.root is None else reading.root
    if not table.is_file():
        raise UserError(f"SOURCE {table} does not exist or is no file")
    if not root.is_dir():
        raise UserError(f"--root {root} is not a folder; give the folder that the table's paths are relative to")
    rows = list(_rows(table, root, reading))
    if not rows:
        raise DataError(f"{table} has no rows below its header; add one for each image")
    _refuse_repeated(rows)
    classes = _classes(rows)
    splits = {}
    for name in SPLITS:
        samples = [_sample(row, root, classes) for row in rows if row.split == name]
        if samples:
            splits[name] = sorted(samples, key=_place)
    return tuple(classes), splits


def _place(sample: Sample) -> tuple[bool, int, str, str]:
    return sample.label == UNLABELLED, sample.label, sample.key, sample.path


def _rows(table: Path, root: Path, reading: Reading) -> Iterator[_Row]:
    names = (reading.path_column or PATH, reading.label_column or LABEL, SPLIT)
    binary, base = table.suffix.lower() == ".parquet", str(root)
    cells = parquet_rows(table, names) if binary else _text_rows(table)
    header = next(cells, (1, []))[1]
    columns = _columns(table, header, reading)
    for line, row in cells:
        place = f"{table}, {'row' if binary else 'line'} {line}: "
        if len(row) != len(header):
            raise DataError(f"{place}{len(row)} cells where the header has {len(header)}; quote cells that hold commas")
        file, label, split = (row[column] if column is not None else "train" for column in columns)
        path = os.path.normpath(os.path.join(base, file))  # noqa: PTH118 (a million rows: Path is 10x slower)
        yield _checked(_Row(place, file, path, label.strip(), split.strip()))


def _text_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the header and of each row that is not blank."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets begin the file with a BOM
            reader = csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",", strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(f"{table}, line {_not_utf8(table)}: not UTF-8 text ({error.reason}); save as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}; repair the line") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error


def _not_utf8(table: Path) -> int:
    """Return the first line that is not UTF-8: the reader's own position runs ahead of its lines."""
    with table.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _columns(table: Path, header: list[str], reading: Reading) -> tuple[int, int, int | None]:
    """Return where the header has the path, the label and, if it does, the split."""
    found = []
    for option, given, name in (("path", reading.path_column, PATH), ("label", reading.label_column, LABEL)):
        name = given or name
        if name not in header:
            raise DataError(
                f"{table} has no column '{name}' (its first line has: {', '.join(header) or 'nothing'})"
                f"{nearest(name, header)}; name the column by --{option}-column"
            )
        found.append(name)
    twice = [name for name in (*found, SPLIT) if header.count(name) > 1]
    if twice:
        raise DataError(f"{table} has more than one column '{twice[0]}'; keep one")
    path, label = (header.index(name) for name in found)
    return path, label, header.index(SPLIT) if SPLIT in header and SPLIT not in found else None


def _checked(row: _Row) -> _Row:
    if not row.file:
        raise DataError(f"{row.place}the path is empty; give the image's path or remove the line")
    if "\0" in row.file:
        raise DataError(f"{row.place}the path {row.file!r} holds a zero byte; repair it")
    if not row.label.isprintable():
        raise DataError(f"{row.place}label {row.label!r} is not printable text; rename the class")
    if row.label == "-1":
        raise DataError(f"{row.place}label -1 may mean a class or none; leave the cell empty for an unlabelled image")
    if row.split not in SPLITS:
        raise DataError(
            f"{row.place}split '{row.split}' is unknown; it should be train or test{nearest(row.split, list(SPLITS))}"
        )
    if row.split == "test" and not row.label:
        raise DataError(f"{row.place}a test image needs a label; add it, or put the image into train")
    return row


def _refuse_repeated(rows: list[_Row]) -> None:
    seen: dict[str, _Row] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            raise DataError(f"{row.place}{row.file} is given twice, first in {first.place.rstrip(': ')}; keep one")


def _classes(rows: list[_Row]) -> dict[str, int]:
    """Return the class numbers by name: sorted, by number where all names are whole numbers."""
    names = {row.label for row in rows if row.label and row.split == "train"}
    for row in rows:
        if row.split == "test" and row.label not in names:
            raise DataError(
                f"{row.place}class {row.label} has test images but no labelled train image; add one or remove the line"
            )
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return {name: number for number, name in enumerate(sorted(names, key=lambda name: (int(name), name)))}
    return {name: number for number, name in enumerate(sorted(names))}


def _sample(row: _Row, root: Path, classes: dict[str, int]) -> Sample:
    if not os.path.isfile(row.path):  # noqa: PTH113
        raise DataError(f"{row.place}{row.path} does not exist or is no file; paths are relative to --root ({root})")
    stem = os.path.splitext(row.path)[0]  # noqa: PTH122
    metadata = f"{stem}.json" if os.path.isfile(f"{stem}.json") else None  # noqa: PTH113
    name = os.path.splitext(row.file)[0]  # noqa: PTH122
    if os.path.isabs(name):  # noqa: PTH117
        name = os.path.relpath(name, root)  # the set does not tell where it was packed
    label = classes[row.label] if row.label else UNLABELLED
    video = row.path if is_video(row.path) else None
    return Sample(os.path.normpath(name), label, row.path, metadata, origin=row.place, video=video)
