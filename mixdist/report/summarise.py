"""Runs -> groups that differ only in the seed, with mean and spread, and the speed-up over ssl+sl."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

from mixdist.config.read import default_of, fields
from mixdist.report.run import Run

ARMS = ("sl", "ssl+sl", "mixtraining")  #: the order of every table and plot

# What moves neither the weights nor the training time of a run by design: the seeds, where it lives, how it is cut.
_NOT_COMPARED = (
    "seed",
    "data.subset_seed",
    "run.",
    "tracking.",
    "train.micro_batch",
    "train.log_every",
    "train.eval_every",
    "train.eval_batch",
    "train.align_every",
    "train.probe_every",
    "data.cache",
    "data.workers",
)
# Settings that an arm never reads (mixdist/plan.py), so that runs which differ only in them are equal.
_MIX_ONLY = (
    "method.mix_ratio",
    "method.mix_samples",
    "method.loss_ratio",
    "method.input_ratio",
    "optim.mix_schedule",
    "optim.carry_",
)
_SSL_ONLY = ("method.ssl_", "method.mask_ratio", "model.decoder_", "optim.ssl.", "data.ssl")
_UNREAD = {"sl": (*_MIX_ONLY, *_SSL_ONLY), "ssl+sl": _MIX_ONLY, "mixtraining": ()}
_HARDWARE = ("device", "world_size")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over seeds."""

    mean: float
    deviation: float | None  #: None for a single value

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise at least one value."""
        seen = list(values)
        return cls(fmean(seen), stdev(seen) if len(seen) > 1 else None)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, and how they were cut into work."""

    runs: tuple[Run, ...]  #: by seed; at least one
    settings: dict[str, Any]  #: what the runs share, device and world size included; dotted key -> value
    differs: tuple[str, ...]  #: the settings that tell it from the other groups of its arm

    @property
    def arm(self) -> str:
        """sl, ssl+sl or mixtraining."""
        return self.runs[0].result.arm

    @property
    def label(self) -> str:
        """The arm, and ``section.key=value`` of what tells the group from others of its arm."""
        return ", ".join([self.arm, *(f"{key}={show(self.settings.get(key))}" for key in self.differs)])

    @property
    def lines(self) -> list[str]:
        """The label for narrow places: the arm, then a line a key, without its section."""
        return [self.arm, *(f"{key.split('.', 1)[-1]}={show(self.settings.get(key))}" for key in self.differs)]

    @property
    def accuracy(self) -> Spread:
        """Top-1 at the end, percent."""
        return Spread.of(run.result.accuracy for run in self.runs)

    @property
    def latency(self) -> Spread:
        """Training seconds."""
        return Spread.of(run.result.latency_s for run in self.runs)

    @property
    def images_per_s(self) -> float:
        """Training throughput over all ranks, mean over runs."""
        return fmean(run.result.images_per_s for run in self.runs)

    @property
    def device_hours(self) -> float:
        """Hours that all devices of a run worked: training, evaluation and checkpoints on each; mean over runs."""
        return fmean(
            run.result.world_size * (run.result.latency_s + run.result.evaluation_s + run.result.checkpoint_s) / 3600
            for run in self.runs
        )

    @property
    def hardware(self) -> tuple[str, int]:
        """Device name and world size."""
        result = self.runs[0].result
        return result.device, result.world_size

    @property
    def shares(self) -> dict[str, float]:
        """Share of the phases' training time in each phase that ran, 0 to 1, over all runs; phases in order."""
        seconds: dict[str, float] = {}
        for run in self.runs:
            for name, phase in run.result.phases.items():
                seconds[name] = seconds.get(name, 0.0) + phase.latency_s
        total = sum(seconds.values()) or 1.0
        return {name: value / total for name, value in seconds.items()}


def show(value: Any) -> str:
    """Return a setting's value as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Sort runs into groups, ordered by arm and by what tells the groups of an arm apart."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(json.dumps(_compared(run), sort_keys=True, default=str), []).append(run)
    groups = []
    for members in together.values():
        settings = _compared(members[0])
        rivals = [
            _compared(others[0]) for others in together.values() if others[0].result.arm == settings["method.arm"]
        ]
        differs = differing(rivals)
        ordered = sorted(members, key=lambda run: (run.result.seed, str(run.folder)))
        groups.append(Group(tuple(ordered), settings, tuple(differs)))
    return sorted(groups, key=lambda group: (ARMS.index(group.arm), [_rank(group, key) for key in group.differs]))


def differing(mappings: list[dict[str, Any]]) -> list[str]:
    """Return the keys whose values are not equal in all mappings, in the order of their first appearance."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return [key for key in keys if len({show(mapping.get(key)) for mapping in mappings}) > 1]


def counterpart(group: Group, arm: str, groups: list[Group], same_hardware: bool = True) -> Group | None:
    """Return the group of another arm that shares all settings which both arms read, if there is one."""
    for other in groups:
        if other.arm != arm or (same_hardware and other.hardware != group.hardware):
            continue
        shared = (group.settings.keys() & other.settings.keys()) - {"method.arm", *_HARDWARE}
        if all(group.settings[key] == other.settings[key] for key in shared):
            return other
    return None


def speed_up(group: Group, groups: list[Group]) -> float | None:
    """Return latency(ssl+sl) / latency(group), or None without an ssl+sl group of these settings and hardware."""
    base = counterpart(group, "ssl+sl", groups)
    return base.latency.mean / group.latency.mean if base else None


def _compared(run: Run) -> dict[str, Any]:
    drop = (*_NOT_COMPARED, *_UNREAD[run.result.arm])
    # A setting that the run's own mixdist did not know yet is off by default, so the run is one with the default.
    settings = {key: value for key, value in {**_defaults(), **run.settings}.items() if not key.startswith(drop)}
    # Of a run with several readings the result is the truth: the config may say "auto" where the result says "cpu".
    return {**settings, "method.arm": run.result.arm, **{name: getattr(run.result, name) for name in _HARDWARE}}


@cache
def _defaults() -> dict[str, Any]:
    """Return the default of each setting that has one, as config.yaml writes it."""
    found = {key: default_of(info) for key, info in fields() if not info.is_required()}
    return {key: value if value is None else _written(value) for key, value in found.items()}


def _written(value: Any) -> Any:
    return json.loads(json.dumps(list(value) if isinstance(value, tuple) else value, default=str))


def _rank(group: Group, key: str) -> tuple[int, float, str]:
    value = group.settings.get(key)
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, show(value))
