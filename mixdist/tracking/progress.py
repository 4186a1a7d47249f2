"""How far a run has come and how long the rest takes: arithmetic on steps and training seconds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from mixdist.engine.record import StepRecord
from mixdist.tracking.tracker import PhaseInfo


@dataclass(frozen=True)
class Standing:
    """Where a record stands in the run."""

    phase: PhaseInfo
    number: int  #: of the phase in the plan, from 0
    phase_step: int  #: optimiser updates done in the phase
    step: int  #: optimiser updates done in the run
    steps: int  #: of the whole run
    eta_phase_s: float | None  #: training seconds to the end of the phase; None while no rate is known
    eta_run_s: float | None  #: training seconds to the end of the run

    @property
    def ends_phase(self) -> bool:
        """Whether this was the last step of its phase."""
        return self.phase_step == self.phase.steps


class Progress:
    """Follows the records of one run.

    A step of one phase costs something else than a step of another. So the rate is that of the current phase alone,
    and stands in for the coming phases until they run.
    """

    def __init__(self, plan: Sequence[PhaseInfo], first_step: int) -> None:
        self.plan = plan
        self._ends = list(accumulate(phase.steps for phase in plan))
        self._number: int | None = None
        # After a resume the training seconds so far are unknown until the first record brings them.
        self._last: tuple[int, float] | None = (0, 0.0) if first_step == 0 else None
        self._base: tuple[int, float] = (0, 0.0)

    def phase_after(self, step: int) -> int | None:
        """Return the number of the phase that trains once ``step`` updates are done; None at the end of the run."""
        number = bisect_right(self._ends, step)
        return number if number < len(self.plan) else None

    def advance(self, record: StepRecord) -> Standing:
        """Take the next record and return where it stands."""
        now = (record.step, record.latency_s)
        number = bisect_left(self._ends, record.step)
        if number != self._number:
            self._number, self._base = number, self._last or now
        self._last = now
        end, total = self._ends[number], self._ends[-1]
        steps, seconds = now[0] - self._base[0], now[1] - self._base[1]
        rate = seconds / steps if steps > 0 else None
        phase = self.plan[number]
        return Standing(
            phase=phase,
            number=number,
            phase_step=record.step - (end - phase.steps),
            step=record.step,
            steps=total,
            eta_phase_s=None if rate is None else rate * (end - record.step),
            eta_run_s=None if rate is None else rate * (total - record.step),
        )
