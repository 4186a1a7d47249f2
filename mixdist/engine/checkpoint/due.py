"""When a checkpoint is due: every so many epochs, steps or minutes, whichever comes first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Due:
    """Says whether to save; whoever saves calls `saved`. The end of a phase and of the run save without asking."""

    epochs: int  #: ``run.save_every_epochs``
    steps: int | None = None  #: ``run.save_every_steps``
    minutes: float | None = None  #: ``run.save_every_minutes``
    clock: Callable[[], float] = time.monotonic  #: seconds
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def at_epoch_end(self, epoch: int) -> bool:
        """Say whether to save where ``epoch`` epochs of the run, over all its phases, are done."""
        return epoch % self.epochs == 0

    def at_step(self, step: int) -> bool:
        """Say whether to save where ``step`` steps of the run are done."""
        return self.steps is not None and step % self.steps == 0

    def by_clock(self) -> bool:
        """Say whether the minutes since the last save (or the start) are over; by this rank's clock alone.

        Clocks differ between ranks: act on what one rank says.
        """
        return self.minutes is not None and self.clock() - self._since >= 60 * self.minutes

    def saved(self) -> None:
        """Begin the minutes anew."""
        self._since = self.clock()
