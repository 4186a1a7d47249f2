"""A grid, seeds and sets -> the jobs that train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixdist.config.read import read_config
from mixdist.data.index import PackedSet
from mixdist.data.open_set import open_set
from mixdist.data.samples import node_cache
from mixdist.engine.checkpoint.identity import identity
from mixdist.paper.cells import Cell
from mixdist.paper.jobs import Job
from mixdist.paper.order import Order
from mixdist.paper.sets import shortfall
from mixdist.paper.settings import Scale, config_file, sets_of, settings_of

PROGRAM = "mixdist reproduce"


def check_settings(order: Order) -> None:
    """Read the config of every cell that was chosen, before any set is looked for, let alone downloaded.

    Raises:
        UserError: a setting out of range.
    """
    for cell in order.chosen.cells:
        places = {name: str(order.shelf.place(name)) for name in (cell.sl_dataset, cell.ssl_dataset)}
        settings = settings_of(cell, order.seeds[0], places, order.place, scaled=False)
        read_config(flags_of([config_file(cell)], {**settings, **order.changes}), PROGRAM)


def build_jobs(order: Order, cells: Sequence[Cell], scale: Scale, sets: Mapping[str, PackedSet]) -> list[Job]:
    """Return a job for each cell and seed, seed by seed so that a grid that is stopped has whole rows.

    Raises:
        UserError: a setting out of range or unknown to this version.
    """
    locations = {name: packed.location for name, packed in sets.items()}
    opened = {packed.location: packed for packed in sets.values()}
    jobs = []
    for seed in order.seeds:
        for cell in cells:
            trained, folder = scale.shorten(cell), order.place / f"{cell.name}-seed{seed}"
            settings = settings_of(trained, seed, locations, folder, scale.share != 1)
            about = {
                "grid": order.whole.name,
                "cell": asdict(cell),
                "trained": {"fraction": trained.fraction, "epochs": trained.epochs},
                "seed": seed,
                "scale": scale.share,
                "notes": [note for name in sets_of([cell]) if (note := shortfall(name, sets[name])) is not None],
            }
            label, files = f"{cell.name} seed {seed}", [config_file(cell)]
            jobs.append(make_job(label, folder, files, settings, order.changes, opened, about))
    return jobs


def make_job(
    label: str,
    folder: Path,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    changes: Mapping[str, str],
    opened: dict[str, PackedSet],
    about: dict[str, Any],
) -> Job:
    """Return the job that trains with the settings of a file and those that replace them.

    Args:
        label: for the console.
        folder: its run.dir.
        files: YAML of `mixdist train`.
        settings: by dotted key.
        changes: the user's, which go before ``settings``; those that change what is trained are told of the run.
        opened: packed sets by location; added to. Remote ones are opened from the run's own cache.
        about: what its grid calls it.

    Raises:
        UserError: see `read_config`.
        DataError: see `open_set`.
    """
    flags = flags_of(files, {**settings, **changes})
    config = read_config(flags, PROGRAM)
    content = {}
    for key, location in (("data.sl", config.data.sl), ("data.ssl", config.ssl_set)):
        if location not in opened:
            opened[location] = open_set(location, node_cache(config))
        content[key] = opened[location].fingerprint
    same = identity(config, content)
    said = {key: value for key, value in changes.items() if any(f"{name}.".startswith(f"{key}.") for name in same)}
    return Job(label, folder, tuple(flags), config, same, {**about, "changes": said})


def flags_of(files: Sequence[Path], settings: Mapping[str, Any]) -> list[str]:
    """Return the command line of `mixdist train` for files and the settings that replace theirs."""
    words = (word for key, value in settings.items() for word in (f"--{key}", _word(value)))
    return [*(["--config", *map(str, files)] if files else []), *words]


def _word(value: Any) -> str:
    """Return a value as YAML reads it on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
