"""Paths of a command line -> finished runs, and the folders that are left out with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from mixdist.errors import UserError
from mixdist.report.run import Run, read_run
from mixdist.runfolder import RunFolder

DEPTH = 3  #: folders below a given one that are searched for runs


@dataclass(frozen=True)
class LeftOut:
    """A run folder that cannot be compared."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """All run folders of the given paths, each once, in the order of the command line."""

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...]


def collect(paths: Sequence[str]) -> Found:
    """Read the runs of all paths: run folders, folders that hold runs, and patterns such as ``'runs/digits-*'``.

    Raises:
        UserError: a path without any run, or no finished run at all.
    """
    folders: dict[Path, Path] = {}  # resolved -> as given, so that overlapping paths count a run once
    for path in paths:
        for folder in _run_folders(path):
            folders.setdefault(folder.resolve(), folder)
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    for folder in folders.values():
        try:
            runs.append(read_run(folder))
        except UserError as error:
            left_out.append(LeftOut(folder, str(error)))
    if not runs:
        reasons = "; ".join(f"{entry.folder}: {entry.reason}" for entry in left_out)
        raise UserError(f"no finished run to compare ({reasons})")
    return Found(tuple(runs), tuple(left_out))


def _run_folders(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        raise UserError(f"{path} is a file, not a run folder; give the folder: {path.parent}")
    if path.is_dir():
        found = list(_search(path, DEPTH))
    elif has_magic(text):
        matches = sorted(glob(text, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = [run for match in matches for run in _search(Path(match), DEPTH)]
    else:
        raise UserError(f"{path} does not exist; give run folders, or a folder that holds some")
    if not found:
        what = "matches no run folder" if has_magic(text) else f"is no run folder and holds none down to {DEPTH} levels"
        raise UserError(f"{path} {what} (a run holds result.json, metrics.jsonl or plan.json)")
    return found


def _search(path: Path, depth: int) -> Iterator[Path]:
    if not path.is_dir():
        return
    folder = RunFolder(path)
    if any(file.is_file() for file in (folder.result, folder.metrics, folder.plan)):
        yield path
    elif depth > 0:
        for child in sorted(path.iterdir()):
            yield from _search(child, depth - 1)
