"""The training pass of each phase, by the engine's own updater, over one model and one batch: its time and its work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixdist.data.batch import Batch
from mixdist.data.mixing import Mixup
from mixdist.engine.loop import Trainer
from mixdist.engine.strategy import trained_parameters
from mixdist.engine.update import Updater
from mixdist.engine.window import wait_for

INPUT = "ssl-input"
FEW = 2  # rows that work is counted on: BatchNorm takes no single one


@dataclass(frozen=True)
class Pass:
    """One update of a phase: preparation of the batch, forward, backward and AdamW; loading is no part of it."""

    name: str  #: of the phase; "ssl-input" where SSL masks before the backbone
    trainer: Trainer
    update: Updater
    batches: list[Batch]  #: of one step, on the device

    def ready(self) -> None:
        """Make the phase's parameters the ones that train: passes over one model take turns."""
        names = [name for group in self.update.phase.drives for name in self.trainer.groups[group]]
        trained_parameters(self.trainer.model, names)

    def seconds(self, steps: int) -> float:
        """Make ``steps`` updates; return the seconds of one."""
        self.ready()
        wait_for(self.update.world.device)
        start = time.perf_counter()
        for _ in range(steps):
            self.update(self.batches, 0)
        wait_for(self.update.world.device)
        return (time.perf_counter() - start) / steps

    def flops(self) -> float:
        """Make an update of a few rows; return the floating-point operations of its matrix products, an image."""
        self.ready()
        few = [first_rows(self.batches[0], FEW)]
        # As two products and a softmax: the counter does not know the fused attention of a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.update(few, 0)
        return float(counter.get_total_flops()) / FEW


def open_passes(trainer: Trainer, held: ExitStack) -> list[Pass]:
    """Return the pass of each phase of the plan, over the trainer's model; ``held`` lets go of them.

    Where the SSL phase masks its input, both kinds of it: masked behind the backbone under its own name, and `INPUT`.
    """
    passes = []
    trainer.model.train()
    for phase in trainer.plan.phases:
        update = trainer.updater(phase)
        held.enter_context(closing(update.strategy))
        stream = held.enter_context(closing(trainer.feed.train[phase.name].epoch(0, 1)))
        batches = next(stream)
        passes.append(Pass(phase.name, trainer, replace(update, mask_input=False), batches))
        if update.mask_input:
            passes.append(Pass(INPUT, trainer, update, batches))
    return passes


def time_passes(passes: Sequence[Pass], rounds: int, steps: int) -> list[dict[str, float]]:
    """Return for each round the seconds of one update of each pass; passes take turns at being the first."""
    for each in passes:
        each.seconds(1)  # warm-up: moments are made, kernels chosen
    found = []
    for number in range(rounds):
        first = number % len(passes)
        found.append({each.name: each.seconds(steps) for each in (*passes[first:], *passes[:first])})
    return found


def first_rows(batch: Batch, rows: int) -> Batch:
    """Return a batch of its first rows."""
    labels, weight = batch.labels[:rows], batch.weight[:rows]
    counts = (float(weight.sum()), float(weight[labels >= 0].sum()))
    return replace(
        batch,
        images=batch.images[:rows],
        labels=labels,
        weight=weight,
        ids=batch.ids[:rows],
        partners=None if batch.partners is None else batch.partners[:rows],
        mixup=None if batch.mixup is None else Mixup(batch.mixup.labels[:rows], batch.mixup.share[:rows]),
        sets=None if batch.sets is None else batch.sets[:rows],
        counts=counts,
    )
