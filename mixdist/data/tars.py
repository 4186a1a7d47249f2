"""Tars without an index as D_ssl: images drawn with replacement, where no exact epoch is to be had.

docs/remote.md says what this is not. It is made to begin with: `mixdist index` turns the same tars into an exact set.
"""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TypeAlias

import numpy as np
import torch

from mixdist.data.bad import BadSamples
from mixdist.data.decode import decode, fit
from mixdist.data.images import Asked, Loaded
from mixdist.data.remote.node_cache import NodeCache
from mixdist.data.remote.resampled import resampled
from mixdist.data.remote.urls import base_name, expand, redact
from mixdist.errors import DataError, UserError
from mixdist.keyed import Ids
from mixdist.world import World

_Wanted: TypeAlias = "tuple[int, int, Future[Loaded]]"  # a number of images, their epoch, and where they are put
LOST = 10_000  # images in a row that cannot be decoded: there seem to be no others


@dataclass(frozen=True)
class Tars:
    """A list of tars, in the place of a packed set."""

    location: str  #: as messages show it, without secrets
    urls: tuple[str, ...]
    cache: NodeCache
    samples: int  #: drawn in an epoch, over all ranks
    mean: tuple[float, ...]  #: of the set that they are used beside; their own are not known
    std: tuple[float, ...]

    @property
    def folder(self) -> Path:
        """A name for the set, as `PackedSet.folder` ends in one."""
        return Path(base_name(self.urls[0]))

    @property
    def fingerprint(self) -> str:
        """A hash of the list: of the content nothing is known."""
        return hashlib.sha256(self.location.encode()).hexdigest()[:16]


def names_tars(location: str) -> bool:
    """Tell a list of tars from the folder or URL of a packed set."""
    return all(url.partition("?")[0].endswith(".tar") for url in expand(location))


def find_tars(location: str, samples: int | None, cache: NodeCache, beside: tuple[tuple[float, ...], ...]) -> Tars:
    """Take a list of tars as D_ssl; ``beside`` are means and deviations of the set that they are used beside.

    Raises:
        UserError: nobody said how many samples make an epoch.
    """
    if samples is None:
        raise UserError(
            f"data.ssl {redact(location)} names tars without an index, so nobody knows how many samples they hold: set "
            f"data.ssl_samples to the number to draw in an SSL epoch, or make an exact set with: mixdist index FOLDER"
        )
    return Tars(redact(location), tuple(expand(location)), cache, samples, *beside)


class DrawnImages:
    """Images of tars in the order in which they are drawn, whichever ids are asked for; see `Images`."""

    frames = 1

    def __init__(self, tars: Tars, size: int, seed: int, ahead: int, bad: BadSamples, world: World) -> None:
        self.ahead = ahead
        self._draws = _Draws(tars, size, seed, bad, world)
        self._asked: SimpleQueue[_Wanted | None] = SimpleQueue()
        # One, as the draws have an order; a daemon, as a process that ends does not wait for a server that is silent.
        Thread(target=_serve, args=(self._draws, self._asked), name="mixdist-tars", daemon=True).start()
        weakref.finalize(self, self._asked.put, None)

    @property
    def busy_s(self) -> tuple[float, ...]:
        """See `Images`; the one worker is a thread, which also waits for tars that are not here yet."""
        return (self._draws.busy_s,)

    def ask(self, ids: Ids, epoch: int) -> Asked:
        """See `Images`. Each epoch begins with a draw of its own, so that a run resumed at its border goes on alike."""
        found: Future[Loaded] = Future()
        self._asked.put((len(ids), epoch, found))
        return Asked(found.result)


def _serve(draws: _Draws, asked: SimpleQueue[_Wanted | None]) -> None:
    for count, epoch, found in iter(asked.get, None):
        try:
            found.set_result(draws.read(count, epoch))
        except BaseException as error:
            found.set_exception(error)


class _Draws:
    """The images drawn, one after the other."""

    def __init__(self, tars: Tars, size: int, seed: int, bad: BadSamples, world: World) -> None:
        self._tars, self._size, self._seed, self._bad, self._world = tars, size, seed, bad, world
        self._epoch: int | None = None
        self._drawn: Iterator[tuple[str, bytes]] = iter(())
        self.busy_s = 0.0

    def read(self, count: int, epoch: int) -> Loaded:
        """Return the next ``count`` images of an epoch."""
        began = time.perf_counter()
        if epoch != self._epoch:
            self._epoch, world = epoch, self._world
            self._drawn = resampled(
                self._tars.urls,
                self._tars.cache,
                self._seed,
                f"tars/{epoch}",
                world.rank,
                world.size,
                self._bad.note_draw,
            )
        out = np.empty((count, self._size, self._size, 3), np.uint8)
        row = lost = 0
        while row < count:
            key, content = next(self._drawn)
            try:
                out[row] = fit(decode(content), self._size)
                row, lost = row + 1, 0
            except ValueError as error:
                bad = DataError(f"image '{key}' of {self._tars.location} cannot be decoded: {error}")
                self._bad.note_draw(bad)
                lost += 1
                if lost >= LOST:
                    raise DataError(f"none of the last {lost} images drawn can be decoded; the last: {bad}") from error
        self.busy_s += time.perf_counter() - began
        return Loaded(torch.from_numpy(out), [])
