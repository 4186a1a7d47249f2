"""A run of a grid: its settings, what makes it this run, and how far it is, all of which its folder tells."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from mixdist.config.schema import Config
from mixdist.files import write_json
from mixdist.runfolder import RunFolder

FORMAT = "mixdist-cell"
VERSION = 1
CELL = "cell.json"
FAILED = "failed.json"
LOG = "train.log"


@dataclass(frozen=True)
class Job:
    """One training of a grid."""

    label: str  #: for the console
    folder: Path  #: its run.dir
    flags: tuple[str, ...]  #: of `mixdist train`
    config: Config  #: what they come to
    identity: dict[str, str]  #: settings and content of the sets: see mixdist/engine/checkpoint/identity.py
    about: dict[str, Any]  #: what its grid calls it

    @cached_property
    def hash(self) -> str:
        """Return the fingerprint by which a finished run is recognised, in any grid."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def lock(self) -> Path:
        """Held by the process that has taken the run, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.lock")

    @property
    def finished(self) -> bool:
        """Whether it, or a run of another grid that it stands for, has a result."""
        return result_folder(self.folder) is not None

    @property
    def failure(self) -> bytes | None:
        """Return failed.json as it is now; None where the last try did not fail."""
        try:
            return (self.folder / FAILED).read_bytes()
        except OSError:
            return None

    def write_cell(self, stands_for: Path | None = None) -> None:
        """Write what the run is into its folder; with ``stands_for``, that its result lies in that folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        elsewhere = None if stands_for is None else os.path.relpath(stands_for, self.folder)
        write_json(
            self.folder / CELL,
            {
                "format": FORMAT,
                "version": VERSION,
                "hash": self.hash,
                "about": self.about,
                "result_in": elsewhere,
                "flags": list(self.flags),
                "identity": self.identity,
            },
        )

    def write_failure(self, code: int, reason: str) -> None:
        """Mark that a try has failed; no two marks are alike."""
        write_json(self.folder / FAILED, {"code": code, "reason": reason, "try": uuid4().hex})


def read_cell(folder: Path) -> dict[str, Any] | None:
    """Return a run's cell.json; None where there is none of this format."""
    try:
        tree = json.loads((folder / CELL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    of_ours = isinstance(tree, dict) and tree.get("format") == FORMAT and tree.get("version") == VERSION
    return tree if of_ours and {"hash", "about", "identity"} <= tree.keys() else None


def came_to_nothing(folder: Path) -> bool:
    """Say whether the last try failed and left neither result nor checkpoint, so that nothing there is to be kept."""
    saved = any(path.suffix != ".partial" for path in RunFolder(folder).checkpoints.glob("step-*"))
    return (folder / FAILED).is_file() and not saved and result_folder(folder) is None


def result_folder(folder: Path) -> Path | None:
    """Return where a run's result lies: in its folder or that of the run it stands for; None where there is none."""
    if _has_result(folder):
        return folder
    cell = read_cell(folder)
    if cell is None or not cell.get("result_in"):
        return None
    other = folder / cell["result_in"]
    return other if _has_result(other) else None


def _has_result(folder: Path) -> bool:
    """Say whether the folder has a result; one that a disk has damaged is none."""
    try:
        return isinstance(json.loads(RunFolder(folder).result.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def finished_runs(out: Path) -> dict[str, Path]:
    """Return the folders of the finished runs of all grids below ``out``, by hash."""
    found: dict[str, Path] = {}
    for folder, cell in cells_below(out, "*/*"):
        if _has_result(folder):
            found.setdefault(cell["hash"], folder)
    return found


def cells_below(place: Path, pattern: str = "*") -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the run folders of a grid, sorted, each with its cell.json."""
    for path in sorted(place.glob(f"{pattern}/{CELL}")):
        if (cell := read_cell(path.parent)) is not None:
            yield path.parent, cell
