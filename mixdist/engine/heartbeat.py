"""Heartbeat: where this process stands in its work, set by the thread that trains, read by the one that watches it.

A process has one training, and therefore one heartbeat. A beat costs under a microsecond and may stand anywhere in a
step, as long as all ranks make the same beats: the watchdog tells from their number who is behind.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

# "start": while the run is set up, before its first step.
# "agree": the counts and votes that ranks exchange before the forward, where each first waits for the slowest loader.
Stage = Literal["start", "data", "agree", "forward", "backward", "optim", "eval", "ckpt"]
SLOW: tuple[Stage, ...] = ("start", "eval", "ckpt")
SLOWER = 4.0  # how much longer these may take, and whatever is in a phase's first step, which may compile


class Beat(NamedTuple):
    """A sign of life."""

    step: int  #: updates done before, over the whole run
    phase: str
    stage: Stage
    at: float  #: time.monotonic()
    beats: int = 0  #: beats since the step began
    first: bool = True  #: in the first step since the start or the phase began

    @property
    def patience(self) -> float:
        """How much longer than usual this may take, as a factor."""
        return SLOWER if self.first or self.stage in SLOW else 1.0


_last = Beat(0, "", "start", time.monotonic())


def start() -> None:
    """A run begins to be set up."""
    global _last  # noqa: PLW0603
    _last = Beat(0, "", "start", time.monotonic())


def alive() -> None:
    """What goes on is long work, of which other ranks may have more or less: a sign of life, and no new place."""
    global _last  # noqa: PLW0603
    _last = _last._replace(at=time.monotonic())


def begin(step: int, phase: str, first: bool) -> None:
    """A step begins, after ``step`` updates of the run, by waiting for its data."""
    global _last  # noqa: PLW0603
    _last = Beat(step, phase, "data", time.monotonic(), 0, first)


def beat(stage: Stage) -> None:
    """The step goes on to ``stage``; or the stage itself goes on, as with each batch of an evaluation."""
    global _last  # noqa: PLW0603
    step, phase, _, _, beats, first = _last
    _last = Beat(step, phase, stage, time.monotonic(), beats + 1, first)


def last() -> Beat:
    """Return the newest beat."""
    return _last
