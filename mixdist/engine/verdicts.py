"""Verdicts: what a step found out on the device, read on the host without making the device wait."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch

from mixdist.engine.update import Agreed, Updated

LAG = 1  # steps that a GPU is behind when a verdict is read: one is always in flight, so the device never runs dry


@dataclass(frozen=True)
class Verdict:
    """One step's, the same on every rank."""

    step: int  #: updates tried, this one included, over the whole run
    stop: bool  #: whether a rank asked to stop
    save: bool  #: whether a rank asked for a checkpoint
    applied: bool  #: whether the update was made


class Verdicts:
    """Verdicts in the order of their steps: a CPU's at once, a GPU's ``LAG`` steps late, by step and not by clock.

    Ranks read the same numbers at the same step, so each of them may act on one as all others do.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._posted: deque[tuple[int, Agreed, torch.Tensor, torch.cuda.Event | None]] = deque()

    def post(self, step: int, updated: Updated) -> None:
        """Start the way of a step's verdict to the host."""
        votes = updated.votes if isinstance(updated.votes, list) else to_host(updated.votes)
        applied, event = to_host(updated.stepped.applied), None
        if self._cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._posted.append((step, votes, applied, event))

    def take(self, all_posted: bool) -> list[Verdict]:
        """Return those that are due, or all that were posted, which waits for the device."""
        taken = []
        while len(self._posted) > (LAG if self._cuda and not all_posted else 0):
            step, votes, applied, event = self._posted.popleft()
            if event:
                event.synchronize()
            stop, save = votes if isinstance(votes, list) else votes.tolist()
            taken.append(Verdict(step, stop > 0, save > 0, applied.item() > 0))
        return taken


def to_host(found: torch.Tensor) -> torch.Tensor:
    """Return numbers on the host, or on their way to it from a GPU."""
    return torch.empty(found.shape, pin_memory=True).copy_(found, non_blocking=True) if found.is_cuda else found
