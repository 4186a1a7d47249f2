"""Shards of a remote set on their way to the node before the training reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread

import numpy as np
import numpy.typing as npt

from mixdist.data.index import Split
from mixdist.data.remote.prefetch import prefetch

GRACE_S = 1.0  # for a download to notice that it is to stop; one that a silent server holds up is left to notice later


@contextmanager
def shards_ahead(split: Split, shards: npt.NDArray[np.uint32], at_once: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with each position reached, which has the next shards fetched in a thread.

    Args:
        split: a remote one.
        shards: the shard of the sample at each position of the epoch.
        at_once: shards that are fetched beyond those reached.
    """
    present, first = np.unique(shards, return_index=True)
    order = np.argsort(first)
    by_visit, begins = present[order].tolist(), first[order]
    wanted: SimpleQueue[int | None] = SimpleQueue()
    stop = Event()
    asked = 0

    def reached(position: int) -> None:
        nonlocal asked
        due = int(np.searchsorted(begins, position, side="right")) + at_once
        for shard in by_visit[asked:due]:
            wanted.put(shard)
        asked = max(asked, due)

    thread = Thread(target=lambda: prefetch(split, iter(wanted.get, None), stop), name="mixdist-shards", daemon=True)
    thread.start()
    try:
        yield reached
    finally:
        stop.set()
        wanted.put(None)
        thread.join(GRACE_S)
