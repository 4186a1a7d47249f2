"""A grid, seeds and sets -> the jobs that train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from mixdist.config.dotted import is_within
from mixdist.config.read import fields, read_config
from mixdist.config.schema import Config
from mixdist.data.index import PackedSet
from mixdist.data.open_set import open_set
from mixdist.data.samples import node_cache
from mixdist.engine.checkpoint.identity import identity
from mixdist.paper.cells import Cell
from mixdist.paper.jobs import Job
from mixdist.paper.order import Order
from mixdist.paper.place import below
from mixdist.paper.sets import shortfall
from mixdist.paper.settings import Scale, config_file, sets_of, settings_of
from mixdist.report.summarise import show

PROGRAM = "mixdist reproduce"
TIMED = (  # settings that change no run but its training time
    "train.compile",
    "train.gradient_checkpointing",
    "train.micro_batch",
    "parallel",
    "data.cache",
    "data.workers",
)


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
            folder, files = order.place / f"{cell.name}-seed{seed}", [config_file(cell)]
            settings = settings_of(scale.shorten(cell), seed, locations, folder, scale.share != 1)
            about = {
                "grid": order.whole.name,
                "cell": asdict(cell),
                "seed": seed,
                "scale": scale.share,
                "notes": [note for name in sets_of([cell]) if (note := shortfall(name, sets[name])) is not None],
            }
            flags, unchanged = (flags_of(files, {**settings, **more}) for more in (order.changes, {}))
            jobs.append(make_job(f"{cell.name} seed {seed}", folder, flags, unchanged, opened, about))
    return jobs


def make_job(
    label: str,
    folder: Path,
    flags: Sequence[str],
    unchanged: Sequence[str],
    opened: dict[str, PackedSet],
    about: dict[str, Any],
) -> Job:
    """Return the job that trains with the settings of a command line.

    Args:
        label: for the console.
        folder: its run.dir.
        flags: of `mixdist train`.
        unchanged: the same without what the user changed, which is told of the run: what changes the training, and
            what changes its time alone.
        opened: packed sets by location; added to. Remote ones are opened from the run's own cache.
        about: what its grid calls it.

    Raises:
        UserError: see `read_config`.
        DataError: see `open_set`.
    """
    config = read_config(list(flags), PROGRAM)
    base = config if flags == unchanged else read_config(list(unchanged), PROGRAM)
    same, before = identity(config, _content(config, opened)), identity(base, _content(base, opened))
    values, values_before = config.model_dump(mode="json"), base.model_dump(mode="json")
    changes, layout = {}, {}
    for key, _ in fields():
        value = _at(values, key)
        if below(same, [key]) != below(before, [key]):
            changes[key] = show(value)
        elif is_within(key, TIMED) and value != _at(values_before, key):
            layout[key] = show(value)
    about = {**about, "trained": _trained(config), "changes": changes, "layout": layout}
    return Job(label, folder, tuple(flags), config, same, about)


def _content(config: Config, opened: dict[str, PackedSet]) -> dict[str, str]:
    """Return the fingerprint of each set that a run reads, by the setting that names it."""
    tasks = {f"data.tasks.{name}": task.path for name, task in config.data.tasks.items()}
    content = {}
    for key, location in {"data.sl": config.data.sl, "data.ssl": config.ssl_set, **tasks}.items():
        if location not in opened:
            opened[location] = open_set(location, node_cache(config))
        content[key] = opened[location].fingerprint
    return content


def _trained(config: Config) -> dict[str, Any]:
    """Return what of a cell may be shortened or changed, as it is; "2 + 3" epochs are those of SSL and of SL."""
    method = config.method
    both = method.arm != "sl" and method.ssl_epochs != method.sl_epochs
    return {
        "backbone": config.model.backbone,
        "fraction": config.data.fraction,
        "epochs": f"{method.ssl_epochs} + {method.sl_epochs}" if both else method.sl_epochs,
        "mix_ratio": method.mix_ratio,
    }


def _at(tree: Mapping[str, Any], key: str) -> Any:
    return reduce(getitem, key.split("."), tree)


def flags_of(files: Sequence[Path], settings: Mapping[str, Any]) -> list[str]:
    """Return the command line of `mixdist train` for files and the settings that replace theirs."""
    words = (word for key, value in settings.items() for word in (f"--{key}", _word(value)))
    return [*(["--config", *map(str, files)] if files else []), *words]


def _word(value: Any) -> str:
    """Return a value as YAML reads it on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
