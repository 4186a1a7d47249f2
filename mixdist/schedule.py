"""Learning rates and α as pure functions of the step: nothing to save but where the run stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a half cosine to zero; a pure function of the step."""

    peak: float
    warmup: int  #: steps
    total: int  #: steps

    def at(self, step: int) -> float:
        """Return the learning rate of 0-based ``step``: 0 < lr <= peak for every step below ``total``."""
        if step < self.warmup:
            return self.peak * ((step + 1) / self.warmup)  # (this order never rounds to above the peak)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Drive:
    """What moves one group of parameters in one phase: a schedule, entered at ``start``, and AdamW's constants."""

    schedule: Schedule
    start: int
    betas: tuple[float, float]
    weight_decay: float

    def lr(self, step: int) -> float:
        """Return the learning rate at 0-based ``step`` of the phase."""
        return self.schedule.at(self.start + step)


@dataclass(frozen=True)
class Alpha:
    """α of Eq. 3 over the mix phase (Sec. 4.4.4)."""

    kind: Literal["constant", "linear", "cosine"]
    start: float
    end: float

    def at(self, step: int, steps: int) -> float:
        """Return α at 0-based ``step`` of ``steps``; an annealed α never reaches its ends, so both losses act."""
        if self.kind == "constant":
            return self.start
        t = (step + 1) / (steps + 1)
        if self.kind == "cosine":
            t = 0.5 * (1 - math.cos(math.pi * t))
        return self.start + (self.end - self.start) * t
