"""What a run will take: the plan, and what was probed of its phases, to steps, hours and bytes; pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mixdist.config.schema import Config
from mixdist.plan import Group, Phase, Plan
from mixdist.planning.probe import Probed

FLOAT = 4  # bytes: weights, gradients and moments are float32 in every precision


@dataclass(frozen=True)
class PhaseForecast:
    """One phase."""

    name: str
    epochs: int
    steps: int
    samples: int  #: images that it trains on, all epochs
    last_batch: int  #: images of an epoch's last step
    gflop_per_image: float
    step_s: float | None  #: seconds a step, every rank working on its share at once
    hours: float | None


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank, in the phase that takes the most."""

    weights: int
    gradients: int
    moments: int
    average: int
    activations: int  #: of one micro-batch
    resident: int  #: decoded sets that stay on the device

    @property
    def total(self) -> int:
        """All of it; libraries' workspaces and fragmentation come on top."""
        return sum(asdict(self).values())


def forecast(plan: Plan, probed: dict[str, Probed], share: int, speed: float | None) -> list[PhaseForecast]:
    """Return what each phase will take.

    Args:
        plan: of the run.
        probed: by phase.
        share: images of a step on one rank.
        speed: images a second that one rank trains in its most expensive phase; the others follow by their operations.
            None: what was timed.
    """
    dearest = max(each.gflop for each in probed.values())
    phases = []
    for phase in plan.phases:
        one = probed[phase.name]
        step_s = share / speed * one.gflop / dearest if speed else one.step_s
        hours = None if step_s is None else phase.steps * step_s / 3600
        last = phase.samples - (phase.steps_per_epoch - 1) * phase.batch
        images = phase.epochs * phase.samples
        phases.append(PhaseForecast(phase.name, phase.epochs, phase.steps, images, last, one.gflop, step_s, hours))
    return phases


def merged_pass_saving(plan: Plan, probed: dict[str, Probed]) -> float | None:
    """Return mix / (ssl + sl) in operations an image, which limits what the merged pass saves (Eq. 3).

    None where the plan has not all three phases: the others' operations were not counted.
    """
    if not {"ssl", "mix", "sl"} <= {phase.name for phase in plan.phases}:
        return None
    return probed["mix"].gflop / (probed["ssl"].gflop + probed["sl"].gflop)


def memory(config: Config, plan: Plan, probed: dict[str, Probed], sizes: Sizes) -> Memory:
    """Return the bytes of one rank in the phase whose activations and states take the most."""
    rows = micro_batch(config, sizes.share)
    parallel = config.parallel
    stage = {"deepspeed": parallel.zero_stage, "fsdp": 3}.get(parallel.strategy, 0)

    def spread(bytes_: int, from_stage: int) -> int:
        return math.ceil(bytes_ / sizes.ranks) if stage >= from_stage else bytes_

    def of(phase: Phase) -> Memory:
        one, trained = probed[phase.name], FLOAT * sum(sizes.parameters[group] for group in phase.drives)
        return Memory(
            weights=spread(FLOAT * sum(sizes.parameters.values()), 3),
            gradients=spread(trained, 2),
            moments=spread(2 * trained, 1),
            average=FLOAT * sum(sizes.parameters.values()) if config.train.ema_decay else 0,
            activations=round(rows * one.image_bytes + one.fixed_bytes),
            resident=sizes.resident,
        )

    return max((of(phase) for phase in plan.phases), key=lambda one: one.total)


@dataclass(frozen=True)
class Sizes:
    """What a forecast of memory is made from."""

    ranks: int
    share: int  #: images of a step on one rank
    parameters: dict[Group, int]
    resident: int  #: bytes of decoded sets on the device


def micro_batch(config: Config, share: int) -> int:
    """Return the images of one forward on one rank; "auto" is taken as the whole share."""
    micro = config.train.micro_batch
    return min(micro, share) if isinstance(micro, int) else share


def as_dict(phases: list[PhaseForecast], held: Memory, saving: float | None, ranks: int) -> dict[str, Any]:
    """Return the forecast as JSON holds it."""
    hours = [phase.hours for phase in phases]
    total = None if None in hours else sum(hour for hour in hours if hour is not None)
    return {
        "phases": [asdict(phase) for phase in phases],
        "ranks": ranks,
        "hours": total,
        "gpu_hours": None if total is None else total * ranks,
        "merged_pass_flop_ratio": saving,
        "memory_bytes": {**asdict(held), "total": held.total},
    }
