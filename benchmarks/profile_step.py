"""`python -m benchmarks.profile_step`: where the time of one step of each phase goes, by stage and by operation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.entry import leave
from benchmarks.step import ALONE
from benchmarks.step_models import CASES, digits, make_trainer
from mixdist.arguments import Parser
from mixdist.engine.loop import Trainer
from mixdist.engine.update import Updater
from mixdist.errors import UserError
from mixdist.plan import Phase

STAGES = ("data", "prepare", "forward", "loss and backward", "optimiser")


def main(argv: Sequence[str]) -> int:
    """Profile, and print a table of each phase; return the exit code."""
    parser = Parser("python -m benchmarks.profile_step", "Profile a step of each phase (docs/performance.md).")
    parser.add_argument("--steps", type=int, default=8, help="steps that are profiled, after as many of warm-up")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--operations", type=int, default=8, help="operations that are listed")
    arguments = parser.parse_args(argv)
    if min(arguments.steps, arguments.threads, arguments.operations) < 1:
        raise UserError("--steps, --threads and --operations should be 1 or more")
    torch.set_num_threads(arguments.threads)
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as work:
        trainer = make_trainer(CASES["vit"], digits(Path(work)), Path(work) / "run", ALONE, mix_ratio=0.5)
        for phase in trainer.plan.phases:
            _print(phase.name, _profile(trainer, phase, arguments.steps), arguments, console)
    return 0


def _profile(trainer: Trainer, phase: Phase, steps: int) -> Any:
    update = trainer.updater(phase)
    undo = _named(update)
    stream = trainer.feed.train[phase.name].epoch(phase.first_epoch, phase.steps_per_epoch)
    try:
        for step in range(steps):
            update(next(stream), step)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for step in range(steps, 2 * steps):
                with record_function("data"):
                    batches = next(stream)
                with record_function("step"):
                    update(batches, step)
    finally:
        undo()
        stream.close()
    return profiler.key_averages()


def _named(update: Updater) -> Callable[[], None]:
    """Let the stages of an update show in a profile under names of their own; return what undoes it."""
    strategy, prepare = update.strategy, type(update.prepare)
    places = [(prepare, "__call__", "prepare"), (strategy, "module", "forward"), (strategy, "step", "optimiser")]
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    for place, name, label in places:
        setattr(place, name, _recorded(getattr(place, name), label))

    def undo() -> None:
        for place, name, function in before:
            setattr(place, name, function)

    return undo


def _recorded(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        with record_function(label):
            return function(*arguments, **keywords)

    return call


def _print(name: str, averages: Any, arguments: Any, console: Console) -> None:
    total = {event.key: event.cpu_time_total / 1000 / arguments.steps for event in averages}
    total["loss and backward"] = total["step"] - sum(total[stage] for stage in ("prepare", "forward", "optimiser"))
    whole = total["data"] + total["step"]
    stages = Table(title=f"{name}: {whole:.1f} ms a step")
    for column in ("stage", "ms", "%"):
        stages.add_column(column, justify="left" if column == "stage" else "right")
    for stage in STAGES:
        stages.add_row(stage, f"{total[stage]:.2f}", f"{100 * total[stage] / whole:.1f}")
    console.print(stages)
    labels = {*STAGES, "step"}
    operations = sorted(
        (event for event in averages if event.key not in labels), key=lambda event: -event.self_cpu_time_total
    )
    table = Table(title=f"{name}: operations by their own time")
    for column in ("operation", "calls a step", "ms a step", "%"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for event in operations[: arguments.operations]:
        own = event.self_cpu_time_total / 1000 / arguments.steps
        table.add_row(event.key, f"{event.count / arguments.steps:.0f}", f"{own:.2f}", f"{100 * own / whole:.1f}")
    console.print(table)


if __name__ == "__main__":
    leave(main)
