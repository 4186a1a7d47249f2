"""Guard: updates that were left out because the gradient was not finite. Counted, undone in buffers, limited."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mixdist.data.order import sample_of
from mixdist.engine.progress import Progress
from mixdist.engine.update import Updated
from mixdist.engine.verdicts import LAG, Verdict
from mixdist.errors import NotFiniteError
from mixdist.files import write_json
from mixdist.keyed import Ids
from mixdist.plan import Phase
from mixdist.world import World

UnderWay = list[tuple[Ids, torch.Tensor]]  # visits and weights of each micro-batch; not the images, they would stay


@dataclass
class _Step:
    """What may have to be told, or undone, of a step whose verdict is still to come."""

    number: int
    samples: UnderWay
    losses: torch.Tensor
    counts: tuple[float, float]
    buffers: list[torch.Tensor]  #: copies from before the step


@dataclass
class Guard:
    """Watches the steps of one phase."""

    phase: Phase
    progress: Progress
    buffers: list[torch.Tensor]  #: running statistics: one batch that is not finite would spoil them for good
    limit: int  #: updates in a row that may be left out
    describe: Callable[[int], str]  #: names a sample of the phase
    report: Path  #: file for what is known of the last batch, where the limit is passed
    world: World
    _steps: deque[_Step] = field(default_factory=lambda: deque(maxlen=LAG + 1))
    _before: list[torch.Tensor] = field(default_factory=list)

    def before(self) -> None:
        """Keep the buffers as they are before a step."""
        self._before = list(torch._foreach_mul(self.buffers, 1.0)) if self.buffers else []  # copies, in one launch

    def after(self, step: int, samples: UnderWay, updated: Updated) -> None:
        """Keep what the step was made of until its verdict is known."""
        self._steps.append(_Step(step, samples, updated.losses, updated.counts, self._before))

    def judge(self, verdict: Verdict) -> None:
        """Count the step; where it was left out, put the buffers back.

        Raises:
            NotFiniteError: on all ranks, after more than ``limit`` in a row.
        """
        if verdict.applied:
            self.progress.skipped_in_a_row = 0
            return
        step = next(one for one in self._steps if one.number == verdict.step)
        for buffer, before in zip(self.buffers, step.buffers, strict=True):
            buffer.copy_(before)
        for later in self._steps:
            if later.number > step.number:  # on a GPU: it began with what this step left in the buffers
                later.buffers = step.buffers
        self.progress.skip(self.phase.name)
        if self.progress.skipped_in_a_row > self.limit:
            self._give_up(step)

    def _give_up(self, step: _Step) -> None:
        ranks = self.world.gather(self._told(step))
        report = {
            "step": step.number,
            "phase": self.phase.name,
            "skipped_in_a_row": self.progress.skipped_in_a_row,
            "ranks": ranks,
        }
        with self.world.together():
            if self.world.is_main:
                write_json(self.report, report)
        raise NotFiniteError(
            f"the loss or its gradient is not finite at step {step.number} ({self.phase.name}), nor in the "
            f"{self.progress.skipped_in_a_row - 1} before, all left out (train.max_skipped {self.limit}): lower "
            f"optim.*.base_lr, set optim.clip_grad, or use train.precision fp32; {self.report} has the losses and the "
            f"samples"
        ).everywhere()

    def _told(self, step: _Step) -> dict[str, Any]:
        """Return this rank's part of the report; numbers that are not finite as text, which JSON has no numbers for."""
        ssl, sl = (
            repr(loss / count) if count else None for loss, count in zip(step.losses.tolist(), step.counts, strict=True)
        )
        return {
            "rank": self.world.rank,
            "loss_ssl": ssl,
            "loss_sl": sl,
            "samples": names(step.samples, self.describe),
        }


def names(samples: UnderWay, describe: Callable[[int], str]) -> list[str]:
    """Return the names of the samples that count."""
    return [
        describe(int(sample))
        for visits, weights in samples
        for sample, weight in zip(sample_of(visits), weights.tolist(), strict=True)
        if weight > 0
    ]
