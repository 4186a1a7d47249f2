"""metrics.jsonl: every record of a run, one JSON object a line, in the run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TextIO

from mixdist.engine.record import StepRecord
from mixdist.errors import UserError
from mixdist.files import atomic
from mixdist.runfolder import RunFolder
from mixdist.tracking.tracker import RunInfo


class JsonLines:
    """Appends each record to ``folder/metrics.jsonl`` and flushes it, so that a killed run loses at most one line.

    JSON has no NaN and no infinity: such a number is written as the string "NaN", "Infinity" or "-Infinity", which
    ``float`` and pydantic read back.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None

    def start(self, info: RunInfo) -> None:
        """Start an empty file, or after a resume keep the records up to ``info.first_step``.

        Raises:
            UserError: a line other than the last is not a record.
        """
        path = RunFolder(info.folder).metrics
        kept = _records_until(path, info.first_step) if info.first_step and path.exists() else []
        with atomic(path) as file:
            file.writelines(kept)
        self._file = path.open("a", encoding="utf-8")

    def log(self, record: StepRecord) -> None:
        """Write one line."""
        if self._file is None:
            raise RuntimeError("JsonLines.log before start")
        values = {name: _json_value(value) for name, value in record.as_dict().items()}
        self._file.write(json.dumps(values, allow_nan=False) + "\n")
        self._file.flush()

    def message(self, text: str) -> None:
        """Do nothing: the file holds records only."""

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _json_value(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _records_until(path: Path, last_step: int) -> list[bytes]:
    """Return the lines of the records with ``step <= last_step``; a torn last line is left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return [line for number, line in enumerate(lines, start=1) if _step(path, number, line) <= last_step]


def _step(path: Path, number: int, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} line {number} is not a record ({error}); delete this line to go on") from error
