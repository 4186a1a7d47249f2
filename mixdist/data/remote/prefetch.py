"""Bring shards to the node before they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from threading import Event

from mixdist.data.index import Split
from mixdist.data.remote.download import StoppedError
from mixdist.errors import MixdistError


def prefetch(split: Split, shards: Iterable[int], stop: Event) -> None:
    """Fetch shards, by number and in this order, until done or ``stop`` is set; to be called in a thread of its own.

    A shard that cannot be had is passed over: the reader that needs it meets the error, and its message, itself. No
    more shards should be asked for ahead than the cache may hold, or the first are evicted before they are read.
    """
    for number in shards:
        if stop.is_set():
            return
        with suppress(MixdistError, StoppedError):
            split.shard_path(number, stop)
