"""uint8 images of one size by sample id, asked for in advance: decoded by a pool, in this process, or kept resident.

All three give the same bytes; only time and memory differ.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mixdist.data.copies import to_device
from mixdist.data.index import Split
from mixdist.data.reading.memory import Setup
from mixdist.data.reading.pool import Pool
from mixdist.data.reading.reader import CENTRE, SampleReader, Unread
from mixdist.keyed import Ids

CHUNK = 256  # samples that fill a resident set at a time

Item = TypeVar("Item")


class Loaded(NamedTuple):
    """Images of the samples asked for, in their order."""

    images: torch.Tensor  #: uint8 [samples · frames, S, S, 3]; valid until they are handed back
    unread: list[Unread]  #: samples that could not be read; their images are black


@dataclass(frozen=True)
class Asked:
    """Images on their way."""

    wait: Callable[[], Loaded]
    hand_back: Callable[[], None] = lambda: None  #: nobody needs them any more, arrived or not; waits for nothing


class Images(Protocol):
    """Random access to uint8 images."""

    frames: int  #: images of one visit to a sample
    ahead: int  #: steps that should be asked for in advance: 0 where a call returns at once

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Seconds of reading and decoding so far, a mean of its workers for each pool; none where images are kept."""
        ...

    def ask(self, ids: Ids, epoch: int) -> Asked:
        """Ask for the samples ``ids`` as the 0-based epoch sees them; `CENTRE` is what evaluation sees."""
        ...


class DirectImages:
    """Reads and decodes in this process, when it is waited for."""

    ahead = 0

    def __init__(self, split: Split, size: int, frames: int = 1, seed: int = 0) -> None:
        self.frames, self._size = frames, size
        self._reader = SampleReader(split, size, frames, seed)
        self._busy_s = 0.0
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=2)  # fresh memory costs a page fault every 4 kB

    @property
    def busy_s(self) -> tuple[float, ...]:
        """See `Images`; the one worker is this process."""
        return (self._busy_s,)

    def ask(self, ids: Ids, epoch: int) -> Asked:
        """See `Images`."""
        shape = (len(ids), self.frames, self._size, self._size, 3)
        out = self._free.pop() if self._free and self._free[-1].shape == shape else np.empty(shape, np.uint8)

        def read() -> Loaded:
            began = time.perf_counter()
            unread = self._reader(ids, epoch, out)
            self._busy_s += time.perf_counter() - began
            return Loaded(torch.from_numpy(out).flatten(0, 1), unread)

        return Asked(read, lambda: self._free.append(out))


class PooledImages:
    """Decoded by worker processes into shared memory, some steps ahead."""

    def __init__(self, setup: Setup, workers: int, ahead: int, slots: int, pin: bool = False) -> None:
        self.frames, self.ahead = setup.frames, ahead
        self._pool = Pool(setup, workers, slots)
        if pin:
            self._pool.pin()

    @property
    def busy_s(self) -> tuple[float, ...]:
        """See `Images`."""
        return (self._pool.busy_s,)

    def ask(self, ids: Ids, epoch: int) -> Asked:
        """See `Images`."""
        ticket = self._pool.ask(ids, epoch)
        return Asked(lambda: Loaded(*self._pool.wait(ticket)), lambda: self._pool.hand_back(ticket))

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


class ResidentImages:
    """The samples ``ids`` of a split, decoded once, in RAM, on disk or in device memory; still images only."""

    ahead = 0
    frames = 1
    busy_s: tuple[float, ...] = ()

    def __init__(
        self, ids: Ids, samples: int, images: torch.Tensor, unread: list[Unread], held: BinaryIO | None = None
    ) -> None:
        self._images, self._held = images, held  # the file that they are mapped from, in use as long as they are
        self._row_of = np.full(samples, -1, np.int64)
        self._row_of[ids] = np.arange(len(ids))
        self.unread = unread
        self._unread_by_id = {one.sample: one for one in unread}

    def ask(self, ids: Ids, epoch: int) -> Asked:
        """See `Images`; ``epoch`` makes no difference."""
        return Asked(lambda: Loaded(self._gather(ids), self._unread_of(ids)))

    def _gather(self, ids: Ids) -> torch.Tensor:
        rows = to_device(torch.from_numpy(self._row_of[ids]), self._images.device)
        return self._images.index_select(0, rows)

    def _unread_of(self, ids: Ids) -> list[Unread]:
        if not self.unread:
            return []
        rows = np.flatnonzero(np.isin(ids, list(self._unread_by_id)))
        return [replace(self._unread_by_id[int(ids[row])], row=int(row)) for row in rows]


def fill(out: torch.Tensor, images: DirectImages | PooledImages, ids: Ids, alive: Callable[[], None]) -> list[Unread]:
    """Decode the samples ``ids`` into ``out`` uint8 [len(ids), S, S, 3]; return those that cannot be read.

    ``alive`` is called after every `CHUNK` of them.
    """
    unread: list[Unread] = []
    chunks = (slice(start, start + CHUNK) for start in range(0, len(ids), CHUNK))
    asked = ((chunk, images.ask(ids[chunk], CENTRE)) for chunk in chunks)
    for chunk, pending in in_flight(asked, images.ahead, lambda item: item[1].hand_back()):
        loaded = pending.wait()
        out[chunk] = loaded.images
        unread += loaded.unread
        pending.hand_back()
        alive()
    return unread


def in_flight(asked: Iterator[Item], ahead: int, drop: Callable[[Item], None]) -> Generator[Item]:
    """Yield what an iterator asks for, with ``ahead`` more of it asked already; what is left at the end is dropped."""
    waiting = deque(islice(asked, ahead))
    try:
        while True:
            waiting.extend(islice(asked, 1))
            if not waiting:
                return
            yield waiting.popleft()
    finally:
        for item in waiting:
            drop(item)
