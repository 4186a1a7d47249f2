"""Turns: the batches of a set that is looked at, in step over the ranks, and left off where one is asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import torch

from mixdist.data.batch import Batch
from mixdist.data.copies import to_device
from mixdist.data.stream import TestStream
from mixdist.engine import heartbeat
from mixdist.engine.verdicts import Late, to_host
from mixdist.world import World

Asked = Callable[[], int]  # the signal that asked this rank to stop, 0 for none


class LeftOff(Exception):  # noqa: N818, as nothing is wrong
    """All ranks have left off together, as one of them was asked to stop."""


def nobody() -> int:
    """Be asked by no signal."""
    return 0


def turns(stream: TestStream, asked: Asked = nobody) -> Iterator[Batch]:
    """Yield this rank's batches; all ranks make the same heartbeats and votes, however many batches they have.

    Raises:
        LeftOff: on all ranks at the same turn, where one was asked to stop.
    """
    ballot = Ballot(stream.world, asked)
    with closing(iter(stream)) as batches:
        for _ in range(stream.most_batches):
            heartbeat.beat("eval")
            if ballot.stops():
                raise LeftOff
            if (batch := next(batches, None)) is not None:
                yield batch
    heartbeat.beat("eval")


class Ballot:
    """Puts to all ranks, once a turn, whether one is asked to stop; GPUs answer late (`Late`): no turn waits."""

    def __init__(self, world: World, asked: Asked) -> None:
        self._world, self._asked = world, asked
        self._late: Late[torch.Tensor] = Late(world.device)

    def stops(self) -> bool:
        """Return the answer, the same on every rank."""
        own = self._asked() != 0
        if self._world.size == 1:
            return own
        self._late.post(to_host(self._world.sum(to_device(torch.tensor([float(own)]), self._world.device))))
        return any(votes.item() > 0 for votes in self._late.take())
