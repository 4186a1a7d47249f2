"""`mixdist check engines`: whether every strategy trains the same model, on the user's own config, in a minute.

Each engine makes the same few updates of each phase from the same start; what it ends with is held against DDP. Started
by itself, it starts its ranks by torchrun; under torchrun or another launcher, it is one of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mixdist.arguments import OwnOptions
from mixdist.assembly import passing_trainer
from mixdist.config.read import read_config
from mixdist.config.schema import Config
from mixdist.config.train_section import ParallelConfig
from mixdist.data.packing.summary import plain_or_terminal, print_line
from mixdist.data.samples import find_samples
from mixdist.engine.loop import Trainer
from mixdist.engine.parity import Difference, Trained, difference, train_a_little
from mixdist.engine.strategies import check_strategy
from mixdist.errors import MixdistError, UserError
from mixdist.launchers import torchrun_names
from mixdist.world import World, leave_together, process_group, read_world

PROGRAM = "mixdist check engines"
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    **{f"deepspeed, ZeRO {stage}": {"strategy": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "fsdp": {"strategy": "fsdp"},
}
REFERENCE = "ddp"
TOLERANCE = {"fp32": 1e-6, "bf16": 1e-2}  # of bf16, a weight that differs in its last bit may round to another value
TF32_TOLERANCE = 1e-2  # copies have other strides than DDP's model, so cuDNN may choose other kernels


def main(argv: Sequence[str] | None = None) -> int:
    """Check the engines; return 0 where all that can be used here agree, else 1.

    Raises:
        UserError: see `read_config`; a number out of range.
    """
    options, rest = _parse(list(sys.argv[1:] if argv is None else argv))
    if "RANK" not in torchrun_names(os.environ):
        read_config(rest, PROGRAM, options.flags)  # its mistakes, and --help, before any rank is started
        return _start(options)
    world = read_world()
    try:
        with process_group(world):
            with world.together():
                config = read_config(rest, PROGRAM, options.flags)
            return _run(config, world, options)
    except MixdistError as error:
        if world.is_main or not error.collective:
            sys.stderr.write(f"mixdist: error: {error}\n")
        if error.collective:
            leave_together()
        return error.exit_code


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = OwnOptions(PROGRAM, HELP)
    parser.add_argument("--ranks", type=int, default=min(2, torch.cuda.device_count() or 2))
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--tolerance", type=float)
    options, rest = parser.split(argv)
    for name in ("ranks", "updates"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} is out of range; it should be 1 or more")
    options.argv = argv
    return options, rest


HELP = """\
mixdist check engines [--ranks N] [--updates N] [--tolerance X] and all that mixdist train takes:
trains a few updates of each phase under DDP, DeepSpeed ZeRO 0 to 3 and FSDP2, and compares (docs/distributed.md).
  --ranks N      processes to start on this machine (default: 2, of one GPU 1); under torchrun, its own
  --updates N    updates of each phase, the last with an epoch's shortest batch (default: 5)
  --tolerance X  largest relative difference (default: 1e-6, under bf16 and TF32 1e-2)

"""


def _start(options: argparse.Namespace) -> int:
    """Start the ranks on this machine, as torchrun does; return the highest of their exit codes.

    Raises:
        UserError: there are fewer GPUs than ranks, and a GPU at all.
    """
    if 0 < (gpus := torch.cuda.device_count()) < options.ranks:
        raise UserError(f"--ranks {options.ranks} is out of range; a rank has a GPU of its own, and there are {gpus}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    here = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options.ranks,
        run_id="check-engines",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    codes: dict[int, int] = elastic_launch(here, main)(options.argv)
    return max(codes.values())


def _run(config: Config, world: World, options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with world.together():
            trainer = passing_trainer(config, find_samples(config), Path(folder), world)
        tolerance = _tolerance(trainer) if options.tolerance is None else options.tolerance
        if tolerance is None:
            raise UserError("train.precision fp16 is DDP's alone; check the engines under bf16 or fp32").everywhere()
        rows = _compare(trainer, config.parallel, options.updates)
    if world.is_main:
        _print(plain_or_terminal(), rows, tolerance, world, options.updates)
    return 0 if all(isinstance(each, str) or each.within(tolerance) for _, _, each in rows) else 1


def _tolerance(trainer: Trainer) -> float | None:
    if trainer.precision.name == "fp32" and trainer.world.device.type == "cuda" and trainer.config.train.tf32:
        return TF32_TOLERANCE
    return TOLERANCE.get(trainer.precision.name)


Row = tuple[str, str, Difference | str]  # engine, phase, and what came out or why nothing did


def _compare(trainer: Trainer, asked: ParallelConfig, updates: int) -> list[Row]:
    """Train each phase under each engine from the model's first weights; the reference comes first."""
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    config, world = trainer.config, trainer.world
    rows: list[Row] = []
    references: dict[str, Trained] = {}
    for engine, settings in ENGINES.items():
        extra = {"deepspeed_config": asked.deepspeed_config} if settings["strategy"] == "deepspeed" else {}
        trainer.config = config.model_copy(update={"parallel": ParallelConfig(**settings, **extra)})
        try:
            with world.together():
                check_strategy(trainer.config, world)
        except UserError as error:
            if extra.get("deepspeed_config"):
                raise
            rows.append((engine, "all", str(error)))
            continue
        for phase in trainer.plan.phases:
            trainer.model.load_state_dict(start)
            trained = train_a_little(trainer, phase, updates)
            reference = references.setdefault(phase.name, trained)
            rows.append((engine, phase.name, difference(reference, trained)))
    return rows


def _print(console: Console, rows: list[Row], tolerance: float, world: World, updates: int) -> None:
    table = Table("engine", "phase", "parameters", "moments", "loss", "grad norm", "updates", "")
    for column in table.columns[2:-1]:
        column.justify = "right"
    for engine, phase, found in rows:
        if isinstance(found, str):
            table.add_row(engine, phase, "", "", "", "", "", "not here")
            continue
        values = [f"{value:.1e}" for value in (found.parameters, found.moments, found.loss, found.norm)]
        verdict = "reference" if engine == REFERENCE else "equal" if found.within(tolerance) else "DIFFERS"
        table.add_row(engine, phase, *values, str(found.updates[1]), verdict)
    console.print(table)
    for engine, _, found in rows:
        if isinstance(found, str):
            print_line(console, f"{engine}: {found}")
    count = f"{world.size} rank{'s' if world.size > 1 else ''}"
    print_line(
        console, f"{updates} updates a phase on {count}; equal: relative differences to ddp of {tolerance:g} at most"
    )


if __name__ == "__main__":
    sys.exit(main())
