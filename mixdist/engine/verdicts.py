"""Verdicts: what a step found out on the device, read on the host without making the device wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from mixdist.engine.update import Agreed, Updated

T = TypeVar("T")

LAG = 1  # steps that a GPU is behind when a verdict is read: one is always in flight, so the device never runs dry


@dataclass(frozen=True)
class Verdict:
    """One step's, the same on every rank."""

    step: int  #: updates tried, this one included, over the whole run
    stop: bool  #: whether a rank asked to stop
    save: bool  #: whether a rank asked for a checkpoint
    applied: bool  #: whether the update was made


class Late(Generic[T]):
    """What is on its way to the host, in order: a CPU's at once, a GPU's ``LAG`` turns late, by turn and not by clock.

    Ranks read the same numbers at the same turn, so each of them may act on one as all others do.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._posted: deque[tuple[T, torch.cuda.Event | None]] = deque()

    def post(self, sent: T) -> None:
        """Take what is made of tensors that `to_host` gave just now."""
        event = None
        if self._cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._posted.append((sent, event))

    def take(self, all_posted: bool = False) -> Iterator[T]:
        """Give those that are due, or all that were posted, which waits for the device."""
        while len(self._posted) > (LAG if self._cuda and not all_posted else 0):
            sent, event = self._posted.popleft()
            if event:
                event.synchronize()
            yield sent


class Verdicts:
    """Verdicts in the order of their steps; see `Late`."""

    def __init__(self, device: torch.device) -> None:
        self._late: Late[tuple[int, Agreed, torch.Tensor]] = Late(device)

    def post(self, step: int, updated: Updated) -> None:
        """Start the way of a step's verdict to the host."""
        votes = updated.votes if isinstance(updated.votes, list) else to_host(updated.votes)
        self._late.post((step, votes, to_host(updated.stepped.applied)))

    def take(self, all_posted: bool) -> list[Verdict]:
        """Return those that are due, or all that were posted, which waits for the device."""
        taken = []
        for step, votes, applied in self._late.take(all_posted):
            stop, save = votes if isinstance(votes, list) else votes.tolist()
            taken.append(Verdict(step, stop > 0, save > 0, applied.item() > 0))
        return taken


def to_host(found: torch.Tensor) -> torch.Tensor:
    """Return numbers on the host, or on their way to it from a GPU."""
    return torch.empty(found.shape, pin_memory=True).copy_(found, non_blocking=True) if found.is_cuda else found
