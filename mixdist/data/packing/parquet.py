"""Rows of a Parquet file as text, by pyarrow, which only who packs such tables needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixdist.errors import DataError, UserError


def parquet_rows(table: Path, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (0, names of all columns), then (row number from 1, cells of all columns); unwanted cells are empty.

    Missing values are empty, whole numbers lose a ".0" (what pandas makes of whole numbers beside missing ones).

    Raises:
        UserError: pyarrow is not installed.
        DataError: not a Parquet file, or a wanted column that holds neither text nor whole numbers.
    """
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{table} needs pyarrow to be read: pip install 'mixdist[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(table) as file:
            names: list[str] = list(file.schema_arrow.names)
            yield 0, names
            places = {name: names.index(name) for name in wanted if name in names}
            batches = file.iter_batches(columns=list(places))
            for row, values in enumerate((each for batch in batches for each in batch.to_pylist()), start=1):
                cells = [""] * len(names)
                for name, value in values.items():
                    cells[places[name]] = _text(value, f"{table}, row {row}: column '{name}'")
                yield row, cells
    except (OSError, pyarrow.lib.ArrowException) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise DataError(f"{table} cannot be read as Parquet: {reason}") from error


def _text(value: Any, place: str) -> str:
    if value is None or value != value:  # NaN is pandas' missing value
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int)):
        raise DataError(f"{place} holds {value!r:.40}; it should be text or a whole number")
    return str(value)
