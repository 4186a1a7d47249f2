"""Rendezvous: the ranks of one start come together at a store, under a name that no earlier start had.

torchrun keeps one store for all of its restarts, with the keys of ranks that are dead. What it puts into the
environment names no start: TORCHELASTIC_RESTART_COUNT counts the failures of each node's own ranks (after a death, 1 on
that node and 0 on the others), and the run's id, MASTER_ADDR and MASTER_PORT stay. So the ranks agree by themselves:

1. Rank 0 makes up a name and puts it up.
2. Every other rank makes up a token and lays it under the name that is up, again whenever another name is.
3. When rank 0 has a token of every rank, it hands each of them the name, under the token.
4. A rank takes the name that it is handed.

Under a fresh name lie only tokens of ranks that have read it since, which are this start's: torchrun starts ranks when
those before have ended. And only rank 0 of this start can know a fresh token: a name that a dead one left is read, and
answered in vain, but never handed over. So all ranks of a start take one name, or none does.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from uuid import uuid4

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.rendezvous import rendezvous

from mixdist.errors import HangError, MixdistError

JOIN_S = 600.0  # for all ranks to be there: imports from a cold network disk take minutes
NAME = "mixdist/start"  # key of the store: the name that rank 0 has put up
LOOK_S = 0.1  # between two looks


def shared_store(rank: int, size: int) -> Store:
    """Return a store that the ranks of this start share, and nobody else; all of them have come when it returns.

    Raises:
        MixdistError: no store at MASTER_ADDR and MASTER_PORT.
        HangError: a rank that has not come.
    """
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=JOIN_S)))
    except (DistNetworkError, DistStoreError) as error:
        place, why = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}", " ".join(str(error).split())
        raise MixdistError(
            f"no store for {size} ranks at {place} (MASTER_ADDR, MASTER_PORT), where rank 0 opens it: {why}"
        ) from None
    return PrefixStore(agree(store, rank, size, JOIN_S), store)


def agree(store: Store, rank: int, size: int, patience_s: float) -> str:
    """Return a name that the ranks of this start have in common, and no start before (see above).

    Raises:
        HangError: after ``patience_s``; rank 0 says who has not come.
    """
    until = time.monotonic() + patience_s
    return _put_up(store, size, until) if rank == 0 else _be_handed(store, rank, until)


def _put_up(store: Store, size: int, until: float) -> str:
    name = uuid4().hex
    store.set(NAME, name)
    places = {rank: f"{name}/{rank}" for rank in range(1, size)}
    while not store.check(list(places.values())):
        if time.monotonic() > until:
            missing = [rank for rank, place in places.items() if not store.check([place])]
            raise HangError(f"of {size} ranks, {', '.join(map(str, missing))} did not come: not started, or cut off")
        time.sleep(LOOK_S)
    for place in places.values():
        store.set(store.get(place).decode(), name)
    return name


def _be_handed(store: Store, rank: int, until: float) -> str:
    token, answered = uuid4().hex, ""
    while not store.check([token]):
        if time.monotonic() > until:
            raise HangError(f"rank {rank} waited in vain: rank 0, or another rank, did not come")
        if store.check([NAME]) and (name := store.get(NAME).decode()) != answered:
            store.set(f"{name}/{rank}", token)
            answered = name
        else:
            time.sleep(LOOK_S)
    return store.get(token).decode()
