"""Algorithm 1: Config and sample counts -> Plan, the phases with their steps, learning rates and α, all pure.

A plan depends on nothing but its arguments: not on the world size, the machine or what was trained so far. Its
hash therefore says whether a checkpoint belongs to a run. docs/method.md holds it against the paper.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from mixdist.config.method_section import MethodConfig
from mixdist.config.schema import Config
from mixdist.config.train_section import ObjectiveOptim
from mixdist.errors import UserError
from mixdist.schedule import Alpha, Drive, Schedule

Group = Literal["backbone", "reconstruct", "classify"]
PhaseName = Literal["ssl", "mix", "sl"]

REFERENCE_BATCH = 256  # Tables 12 and 13 give the base learning rate at this global batch


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one objective."""

    name: PhaseName
    epochs: int
    samples: int  #: images an epoch, each exactly once
    batch: int  #: global; the last batch of an epoch holds what is left
    first_step: int  #: updates done before this phase, over the whole run
    first_epoch: int  #: epochs done before this phase
    carry: bool  #: whether AdamW's moments come along from the phase before
    alpha: Alpha
    drives: dict[Group, Drive]  #: exactly the groups that this phase trains

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser updates of one epoch."""
        return math.ceil(self.samples / self.batch)

    @property
    def steps(self) -> int:
        """Optimiser updates of the phase."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Counts:
    """Sizes of the training sets, after the fraction is drawn."""

    ssl: int  #: samples of D_ssl
    sl: int  #: labelled samples of D_sl
    classes: int


@dataclass(frozen=True)
class Plan:
    """What will happen."""

    phases: tuple[Phase, ...]
    notes: tuple[str, ...]  #: what had to be bent, for the user: clamped warm-ups, an empty mix phase

    @property
    def steps(self) -> int:
        """Optimiser updates of the run."""
        return sum(phase.steps for phase in self.phases)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plan.json holds it."""
        phases = [
            {**asdict(phase), "steps_per_epoch": phase.steps_per_epoch, "steps": phase.steps} for phase in self.phases
        ]
        return {"phases": phases, "steps": self.steps, "notes": list(self.notes), "hash": self.hash}

    @property
    def hash(self) -> str:
        """Fingerprint of all phases; equal plans have equal hashes."""
        text = json.dumps([asdict(phase) for phase in self.phases], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def epochs_of(method: MethodConfig) -> dict[PhaseName, int]:
    """Return the epochs of each phase: Eq. 1 and lines 2 to 10 of Algorithm 1; an arm is only a choice of these."""
    e_ssl = 0 if method.arm == "sl" else method.ssl_epochs
    e_sl = method.sl_epochs
    ratio = method.mix_ratio if method.arm == "mixtraining" else 0.0
    # Eq. 1, on the decimal number that was written: in binary fractions, 0.29 * 100 = 28.999... loses an epoch.
    e_mix = math.floor(Fraction(str(ratio)) * min(e_ssl, e_sl))
    return {"ssl": e_ssl - e_mix, "mix": e_mix, "sl": e_sl - e_mix}


def both_heads(epochs: Mapping[PhaseName, int]) -> bool:
    """Return whether a phase comes in which both heads are trained, or have been."""
    return bool(epochs["mix"] or (epochs["ssl"] and epochs["sl"]))


def make_plan(config: Config, counts: Counts, world_size: int = 1) -> Plan:
    """Lay out the run.

    Raises:
        UserError: no epoch at all, labels or samples that a phase needs and are not there, or a global batch
            smaller than the number of ranks.
    """
    epochs = epochs_of(config.method)
    _check(config, counts, epochs, world_size)
    mixed = counts.ssl if config.method.mix_samples == "all" else counts.sl
    samples: dict[PhaseName, int] = {"ssl": counts.ssl, "mix": mixed, "sl": counts.sl}
    steps = {name: epochs[name] * math.ceil(samples[name] / config.train.batch) for name in epochs}
    notes: list[str] = []
    drives = _drives(config, epochs, steps, notes)
    if config.method.arm == "mixtraining" and epochs["mix"] == 0:
        notes.append("the mix phase has no epoch (Eq. 1), so this is ssl+sl; raise method.mix_ratio or the epochs")
    if config.train.mixup and epochs["sl"] == 0:
        notes.append("train.mixup has nothing to act on: the plan has no SL phase, and MIX mixes by Eq. 2 alone")
    if config.train.align_every and not both_heads(epochs):
        notes.append(
            "train.align_every has nothing to measure: no phase trains both heads, or the second after the first"
        )
    notes += _larger_batches(config.train.batch, epochs, samples)
    phases: list[Phase] = []
    done_steps = done_epochs = 0
    for name in epochs:
        if epochs[name] == 0:
            continue
        phases.append(
            Phase(
                name=name,
                epochs=epochs[name],
                samples=samples[name],
                batch=config.train.batch,
                first_step=done_steps,
                first_epoch=done_epochs,
                carry=_carries(config, [phase.name for phase in phases], name),
                alpha=_alpha(config.method, name),
                drives=drives[name],
            )
        )
        done_steps += steps[name]
        done_epochs += epochs[name]
    return Plan(tuple(phases), tuple(notes))


def _larger_batches(batch: int, epochs: dict[PhaseName, int], samples: dict[PhaseName, int]) -> list[str]:
    """Note phases of fewer images than a batch: where labels are few, the default trains one step an epoch."""
    short = {samples[name]: name for name in epochs if epochs[name] and samples[name] < batch}
    return [
        f"an epoch of {name} is one step of {images} images, at the learning rate of a whole train.batch {batch}; a "
        f"smaller train.batch makes several steps of it"
        for images, name in short.items()
    ]


def _check(config: Config, counts: Counts, epochs: dict[PhaseName, int], world_size: int) -> None:
    method, batch = config.method, config.train.batch
    if sum(epochs.values()) == 0:
        field = "method.sl_epochs" if method.arm == "sl" else "method.ssl_epochs and method.sl_epochs"
        raise UserError(f"nothing to train: {field} give the arm '{method.arm}' no epoch; set at least 1")
    if batch < world_size:
        raise UserError(f"train.batch {batch} is smaller than the {world_size} ranks; use at least {world_size}")
    if epochs["mix"] + epochs["sl"] and counts.sl == 0:
        raise UserError(
            f"data.sl ({config.data.sl}) has no labelled sample, but the arm '{method.arm}' has "
            f"{epochs['mix'] + epochs['sl']} supervised epochs; pack it with labels, or set method.sl_epochs 0"
        )


def _drives(
    config: Config, epochs: dict[PhaseName, int], steps: dict[PhaseName, int], notes: list[str]
) -> dict[PhaseName, dict[Group, Drive]]:
    """Lay the schedules over the phases by either reading (docs/method.md, "Schedules across MIX")."""

    def track(side: ObjectiveOptim, label: str, *names: PhaseName) -> dict[PhaseName, Drive]:
        """Lay one schedule over the phases ``names``, one after the other."""
        schedule = _schedule(side, label, config.train.batch, [(epochs[name], steps[name]) for name in names], notes)
        starts = [sum(steps[name] for name in names[:place]) for place in range(len(names))]
        return {
            name: Drive(schedule, start, side.betas, side.weight_decay)
            for name, start in zip(names, starts, strict=True)
        }

    ssl, sl = config.optim.ssl, config.optim.sl
    if config.optim.mix_schedule == "joint":
        by_ssl, by_sl = track(ssl, "SSL", "ssl", "mix"), track(sl, "SL", "mix", "sl")
    else:
        by_sl = track(sl, "MIX", "mix") | track(sl, "SL", "sl")
        by_ssl = track(ssl, "SSL", "ssl") | {"mix": by_sl["mix"]}
    drives: dict[PhaseName, dict[Group, Drive]] = {
        "ssl": {"backbone": by_ssl["ssl"], "reconstruct": by_ssl["ssl"]},
        "mix": {"backbone": by_sl["mix"], "reconstruct": by_ssl["mix"], "classify": by_sl["mix"]},
        "sl": {"backbone": by_sl["sl"], "classify": by_sl["sl"]},
    }
    return drives


def _schedule(side: ObjectiveOptim, label: str, batch: int, spans: list[tuple[int, int]], notes: list[str]) -> Schedule:
    """Return the schedule over ``spans`` of (epochs, steps); a warm-up over half of it is cut, and noted."""
    total = sum(steps for _, steps in spans)
    per_epoch = next((steps / epochs for epochs, steps in spans if epochs), 1.0)
    most = total / 2 / per_epoch
    if total and side.warmup_epochs > most:
        notes.append(f"warm-up of the {label} schedule cut from {side.warmup_epochs:g} to {most:g} epochs, half of it")
    warmup = min(round(side.warmup_epochs * per_epoch), total // 2)
    return Schedule(side.base_lr * batch / REFERENCE_BATCH, warmup, total)


def _carries(config: Config, before: list[PhaseName], name: PhaseName) -> bool:
    """Say whether the moments cross the border into ``name``; ssl+sl starts SL afresh, as two scripts would."""
    if name == "mix":
        return bool(before) and config.optim.carry_ssl_to_mix
    return name == "sl" and before[-1:] == ["mix"] and config.optim.carry_mix_to_sl


def _alpha(method: MethodConfig, name: PhaseName) -> Alpha:
    if name != "mix":
        only = 1.0 if name == "ssl" else 0.0
        return Alpha("constant", only, only)
    if method.loss_ratio_schedule == "constant":
        return Alpha("constant", method.loss_ratio, method.loss_ratio)
    return Alpha(method.loss_ratio_schedule, method.loss_ratio_start, method.loss_ratio_end)
