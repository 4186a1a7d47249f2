"""The folder of a grid: whether what it holds can stand beside the runs that are to be trained there."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mixdist.config.dotted import is_within
from mixdist.engine.checkpoint.identity import differences
from mixdist.errors import UserError
from mixdist.paper.jobs import CELL, Job, came_to_nothing, cells_below, read_cell

SEEDS = ("seed", "data.subset_seed")  # in what the runs of a row may differ


def take_place(place: Path, jobs: Sequence[Job]) -> None:
    """Make the folder of a grid, once nothing in it is in the way.

    Raises:
        UserError: it cannot be made; see `check_place`.
    """
    check_place(place, jobs)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {place} cannot be made: {error.strerror}") from error


def check_place(place: Path, jobs: Sequence[Job]) -> None:
    """Refuse the folder of a grid that holds runs which these could not stand beside, or something else.

    A failed try that left nothing to keep is not in the way: its settings may be what was wrong.

    Raises:
        UserError: naming such a run and the settings that differ.
    """
    for job in jobs:
        cell = read_cell(job.folder) or _begun_meanwhile(job.folder)
        if cell is not None and cell["hash"] != job.hash and not came_to_nothing(job.folder):
            raise _other_run(job.folder, differences(cell["identity"], job.identity))
    rows = {json.dumps(_row(job.about)): job for job in jobs}  # whose seeds are alike in all that is compared
    for folder, cell in cells_below(place):
        if not came_to_nothing(folder):
            for job in rows.values():
                if changed := _unlike(cell, job):
                    raise _other_run(folder, changed)


def _begun_meanwhile(folder: Path) -> dict[str, Any] | None:
    """Return the cell of another process that begins this run: it is about to give its file that name, or has."""
    if not folder.is_dir() or all(one.name == f"{CELL}.partial" for one in folder.iterdir()):
        return None
    cell = read_cell(folder)
    if cell is None:
        raise UserError(f"{folder} holds files and no {CELL}: no run of this grid; give another --out")
    return cell


def _unlike(cell: dict[str, Any], job: Job) -> list[str]:
    """Say in what a run of the grid differs from a job, beyond what the grid itself varies.

    Runs of a row are averaged, so they share all but the seed. Rows are compared, so they share what the user changed
    and, where they are of the same set, its content.
    """
    about, was, now = cell["about"], cell["identity"], job.identity
    if _row(about) == _row(job.about):
        return differences(*({key: one[key] for key in one if key not in SEEDS} for one in (was, now)))
    same_set = _trained_on(about) == _trained_on(job.about)
    keys = {*about["changes"], *job.about["changes"], *(["data.sl"] if same_set else [])}
    return differences(below(was, keys), below(now, keys))


def _row(about: dict[str, Any]) -> list[Any]:
    """Return what of a run its row is: the cell of a table, share and arm of a label budget."""
    return [about.get(key) for key in ("cell", "share", "arm")]


def _trained_on(about: dict[str, Any]) -> str | None:
    """Return the name of a cell's D_sl; a label budget has one set."""
    cell = about.get("cell")
    return cell["sl_dataset"] if cell else None


def below(identity: dict[str, str], keys: Collection[str]) -> dict[str, str]:
    """Return the part of an identity that these settings are; the entries of a mapping have dotted names."""
    return {name: text for name, text in identity.items() if is_within(name, keys)}


def _other_run(folder: Path, changed: Sequence[str]) -> UserError:
    said = "; ".join(changed) or "an unknown setting differs"
    return UserError(f"{folder} holds a run of other settings ({said}); give another --out, or remove it")
