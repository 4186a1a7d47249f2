"""A run's own phases, tried for a few steps on one rank's share: seconds, operations and memory, measured."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.autograd.graph import saved_tensors_hooks

from mixdist.assembly import passing_trainer
from mixdist.config.schema import Config
from mixdist.data.samples import Samples
from mixdist.engine.passes import Pass, first_rows, open_passes, time_passes
from mixdist.world import World

FEW, MORE = 2, 4  # rows whose activations are counted: the difference is what a row takes
ROUNDS = 20  # of one step of each phase


@dataclass(frozen=True)
class Probed:
    """One phase on one rank."""

    step_s: float | None  #: seconds of an update of the rank's share, loading not included; None where none was timed
    gflop: float  #: of an image, forward and backward
    image_bytes: float  #: what the graph holds for an image between forward and backward
    fixed_bytes: float  #: what it holds besides, however many images


def probe(config: Config, samples: Samples, share: int, world: World, seconds: float) -> dict[str, Probed]:
    """Try each phase of the plan on ``share`` images a step, for about ``seconds`` in all; 0 times nothing."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        train = config.train.model_copy(update={"batch": share, "micro_batch": _within(share, config)})
        trainer = passing_trainer(config.model_copy(update={"train": train}), samples, Path(folder), world)
        passes = open_passes(trainer, held)
        times = _time(passes, seconds) if seconds else {}
        found = {each.name: _look_at(each, times.get(each.name)) for each in passes}
    torch.cuda.empty_cache()  # what the tries took is free for the run
    return found


def _within(share: int, config: Config) -> int | str | None:
    micro = config.train.micro_batch
    return min(micro, share) if isinstance(micro, int) else micro


def _time(passes: list[Pass], seconds: float) -> dict[str, float]:
    """Return the medians of as many rounds as the time allows, one at least."""
    began = perf_counter()
    (first,) = time_passes(passes, rounds=1, steps=1)  # after a warm-up step of each
    rounds = [first]
    while len(rounds) < ROUNDS and perf_counter() - began < seconds:
        rounds.append({each.name: each.seconds(1) for each in passes})
    return {each.name: median(one[each.name] for one in rounds) for each in passes}


def _look_at(one: Pass, step_s: float | None) -> Probed:
    few, more = (_held_for_backward(one, rows) for rows in (FEW, MORE))
    image = max(0.0, (more - few) / (MORE - FEW))
    return Probed(step_s, one.flops() / 1e9, image, max(0.0, few - FEW * image))


def _held_for_backward(one: Pass, rows: int) -> int:
    """Return the bytes that autograd keeps from the forward of ``rows`` images, parameters not counted."""
    one.ready()
    parameters = {value.untyped_storage().data_ptr() for value in one.trainer.model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        one.update([first_rows(one.batches[0], rows)], 0)
    return sum(kept.values())
