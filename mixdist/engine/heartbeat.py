"""Heartbeat: where this process stands in its work, set by the thread that trains, read by the one that watches it.

A process has one training, and therefore one heartbeat. A beat is three assignments: it may stand anywhere in a step.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple, get_args

Stage = Literal["start", "data", "forward", "backward", "optim", "eval", "ckpt"]
STAGES: tuple[Stage, ...] = get_args(Stage)  #: in the order in which a step goes through them
SLOW: tuple[Stage, ...] = ("start", "eval", "ckpt")  #: may take four times as long as other stages
SLOWER = 4.0


class Beat(NamedTuple):
    """A sign of life."""

    step: int  #: updates done before, over the whole run
    phase: str
    stage: Stage
    at: float  #: time.monotonic()
    first: bool = True  #: in the first step since the start or the phase began, which may compile

    @property
    def patience(self) -> float:
        """How much longer than usual this stage may take, as a factor."""
        return SLOWER if self.first or self.stage in SLOW else 1.0


_last = Beat(0, "", "start", time.monotonic())


def begin(step: int, phase: str, first: bool) -> None:
    """A step begins, after ``step`` updates of the run, by waiting for its data."""
    global _last  # noqa: PLW0603
    _last = Beat(step, phase, "data", time.monotonic(), first)


def beat(stage: Stage) -> None:
    """The step goes on to ``stage``; or the stage itself goes on, as with each batch of an evaluation."""
    global _last  # noqa: PLW0603
    step, phase, _, _, first = _last
    _last = Beat(step, phase, stage, time.monotonic(), first)


def last() -> Beat:
    """Return the newest beat."""
    return _last
