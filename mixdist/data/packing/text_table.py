"""Rows of a CSV or TSV file as text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mixdist.errors import DataError

SEPARATORS = (",", ";", "\t")


def text_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the header and of each row that is not blank.

    Raises:
        DataError: the file is not UTF-8 text, or its quotes do not close.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets begin the file with a BOM
            header = next((line for line in file if line.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=_separator(table, header), strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(f"{table}, line {_not_utf8(table)}: not UTF-8 text ({error.reason}); save as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}; repair the line") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error


def _separator(table: Path, header: str) -> str:
    """Return what the header's columns are separated by: spreadsheets write semicolons where commas are decimal."""
    usual = "\t" if table.suffix.lower() == ".tsv" else ","
    return max((usual, *SEPARATORS), key=header.count)


def _not_utf8(table: Path) -> int:
    """Return the first line that is not UTF-8: the reader's own position runs ahead of its lines."""
    with table.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
