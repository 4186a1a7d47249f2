"""Which sets a run is fed from, and which of their samples take part; nothing is decoded yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixdist.config.schema import Config
from mixdist.data.index import PackedSet
from mixdist.data.open_set import open_set
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.urls import expand, is_remote, redact
from mixdist.data.select import labelled_ids, training_ids, unlabelled_ids
from mixdist.data.tars import Tars, find_tars, names_tars
from mixdist.errors import DataError
from mixdist.keyed import Ids
from mixdist.plan import Counts


@dataclass(frozen=True)
class LabelledSet:
    """One of data.tasks."""

    name: str
    packed: PackedSet
    ids: Ids  #: labelled samples that take part
    visits: int  #: in an epoch of MIX or SL


@dataclass(frozen=True)
class Samples:
    """The sets of a run and the samples that take part; nothing is decoded yet."""

    sl: PackedSet
    ssl: PackedSet | Tars
    sl_ids: Ids  #: labelled samples of D_sl
    ssl_ids: Ids  #: samples of D_ssl; numbers of draws where it is tars without an index
    image_size: int
    tasks: tuple[LabelledSet, ...] = ()  #: labelled sets beside D_sl

    @property
    def counts(self) -> Counts:
        """The sizes that a plan is made from."""
        visits = len(self.sl_ids) + sum(task.visits for task in self.tasks)
        classes = len(self.sl.classes) + sum(len(task.packed.classes) for task in self.tasks)
        return Counts(ssl=len(self.ssl_ids), sl=visits, classes=classes)

    @property
    def unlabelled(self) -> int:
        """How many samples only SSL sees."""
        return len(self.ssl_ids if self.ssl is not self.sl else np.setdiff1d(self.ssl_ids, self.sl_ids))


def find_samples(config: Config) -> Samples:
    """Open the packed sets and select the samples.

    Raises:
        DataError: see `open_set`, `training_ids` and `labelled_ids`; or images of several sizes and no
            data.image_size to bring them to.
    """
    cache = node_cache(config)
    if names_tars(config.data.sl):
        raise DataError(
            f"data.sl {redact(config.data.sl)} names tars, but supervised training needs an index of them; make one "
            f"with mixdist index FOLDER, and give the folder"
        )
    sl = open_set(config.data.sl, cache)
    ssl = _open_ssl(config, sl, cache)
    size = config.data.image_size
    if size is None:
        if sl.image_size is None or sl.image_size[0] != sl.image_size[1]:
            found = "images of several sizes" if sl.image_size is None else f"{sl.image_size} (height, width) images"
            raise DataError(f"{sl.location} has {found}; set data.image_size to the side of the square to train on")
        size = sl.image_size[0]
    sl_ids = labelled_ids(sl, training_ids(sl, config.data), config.data)
    tasks = _tasks(config, len(sl_ids), cache)
    return Samples(sl, ssl, sl_ids, _ssl_ids(config, sl, ssl, sl_ids), size, tasks)


def _tasks(config: Config, labelled: int, cache: NodeCache | None) -> tuple[LabelledSet, ...]:
    """Open the further labelled sets, of which each has its rate of the ``labelled`` samples of D_sl in an epoch.

    Raises:
        DataError: see `open_set`, `training_ids` and `labelled_ids`; or one that has no labels to train or to test on.
    """
    found = []
    for name, task in config.data.tasks.items():
        if names_tars(task.path):
            raise DataError(f"data.tasks.{name} names tars without an index; make one with mixdist index FOLDER")
        packed = open_set(task.path, cache)
        ids = labelled_ids(packed, training_ids(packed, config.data), config.data)
        if len(ids) == 0 or not (packed.split("test").labels >= 0).any():
            raise DataError(
                f"data.tasks.{name} ({packed.location}) needs labelled samples in its train and its test split"
            )
        found.append(LabelledSet(name, packed, ids, max(1, round(task.rate * labelled))))
    return tuple(found)


def _ssl_ids(config: Config, sl: PackedSet, ssl: PackedSet | Tars, sl_ids: Ids) -> Ids:
    if isinstance(ssl, Tars):
        return np.arange(ssl.samples)
    ssl_ids = training_ids(ssl, config.data)
    if config.data.ssl_only_unlabelled:
        keeping = sl_ids if ssl is sl else labelled_ids(ssl, ssl_ids, config.data)
        return unlabelled_ids(ssl, ssl_ids, keeping)
    return ssl_ids


def _open_ssl(config: Config, sl: PackedSet, cache: NodeCache | None) -> PackedSet | Tars:
    """Open D_ssl, which may be tars without an index.

    Raises:
        DataError: see `open_set`.
        UserError: see `find_tars`.
    """
    if config.ssl_set == config.data.sl:
        return sl
    if names_tars(config.ssl_set):
        return find_tars(config.ssl_set, config.data.ssl_samples, cache or _cache(config), (sl.mean, sl.std))
    return open_set(config.ssl_set, cache)


def node_cache(config: Config) -> NodeCache | None:
    """Return where remote files are kept; None where all sets of the run are on this machine."""
    sets = (config.data.sl, config.ssl_set, *(task.path for task in config.data.tasks.values()))
    if not any(is_remote(location) for each in sets for location in expand(each)):
        return None
    return _cache(config)


def _cache(config: Config) -> NodeCache:
    return NodeCache(config.data.cache_dir.expanduser(), config.data.cache_limit_bytes)
