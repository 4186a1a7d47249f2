"""`python -m benchmarks.ranks`: what training together costs two ranks, beside two processes that train alone.

Both are done by the same two processes, in turn: for a stretch of steps they train one model together, for the next
each of them trains a model of its own, with its share of the batch. So a slow minute of the machine meets both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.entry import leave
from benchmarks.machine import measured_on
from benchmarks.step_models import CASES, by_engine, by_hand, digits, make_trainer
from mixdist.arguments import Parser
from mixdist.errors import UserError
from mixdist.files import write_json
from mixdist.world import World, process_group, read_world

BATCH = 64  # global: a step of 32 images a rank takes a second or two, the gradients of 23 MB always the same
BARE = "bare-ddp"  # the limit: the loop written by hand, under torch's DDP and nothing else
STRATEGIES: dict[str, dict[str, Any]] = {
    BARE: {},
    "ddp": {"strategy": "ddp"},
    **{f"deepspeed-{stage}": {"strategy": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "fsdp": {"strategy": "fsdp"},
}


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write what was asked for; return the exit code."""
    arguments = _parser().parse_args(argv)
    names = arguments.strategies.split(",")
    for name in names:
        if name not in STRATEGIES:
            raise UserError(f"--strategies: there is no {name!r}; there are: {', '.join(STRATEGIES)}")
    if arguments.rounds < 1:
        raise UserError(f"--rounds {arguments.rounds} is out of range; it should be 1 or more")
    if arguments.batch < 2 or arguments.batch % 2:
        raise UserError(f"--batch {arguments.batch} should be a multiple of the two ranks")
    if "RANK" in os.environ:
        _as_rank(names, arguments.batch, arguments.rounds)
        return 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", **os.environ}
    child = subprocess.run(
        [*command, "benchmarks.ranks", *argv], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    figures = json.loads(child.stdout.splitlines()[-1])
    _print(figures, arguments.batch)
    if arguments.json:
        head = measured_on()
        write_json(arguments.json, head | {"rounds": arguments.rounds, "batch": arguments.batch, "figures": figures})
    return 0


def _as_rank(names: list[str], batch: int, rounds: int) -> None:
    torch.set_num_threads(1)
    world = read_world()
    with process_group(world), tempfile.TemporaryDirectory() as work:
        figures = {name: _compare(name, Path(work) / name, world, batch, rounds) for name in names}
        if world.is_main:
            print(json.dumps(figures))


def _compare(name: str, work: Path, world: World, batch: int, rounds: int) -> dict[str, float]:
    """Return the medians in ms a step, and of the ratio of the two speeds within a round."""
    case = replace(CASES["vit"], batch=batch, steps=2)
    alone = replace(world, rank=0, local_rank=0, size=1, local_size=1)
    data = digits(work)
    drive = by_hand if name == BARE else by_engine
    together = drive(make_trainer(case, data, work / "together", world, **STRATEGIES[name]))
    apart = drive(make_trainer(replace(case, batch=case.batch // 2), data, work / "apart", alone))
    pairs = []
    for number in range(rounds + 1):
        first, second = (together, apart) if number % 2 else (apart, together)
        seconds = {id(each): _seconds(each, world) for each in (first, second)}
        pairs.append((1000 * seconds[id(together)] / case.steps, 1000 * seconds[id(apart)] / case.steps))
    del pairs[0]  # warm-up
    return {
        "together_ms": median(one for one, _ in pairs),
        "apart_ms": median(other for _, other in pairs),
        "efficiency": median(other / one for one, other in pairs),
    }


def _seconds(stretch: Iterator[None], world: World) -> float:
    """Time a stretch until both ranks are through with it."""
    world.sum(torch.zeros(1))
    start = time.perf_counter()
    next(stretch)
    world.sum(torch.zeros(1))
    return time.perf_counter() - start


def _print(figures: dict[str, dict[str, float]], batch: int) -> None:
    table = Table(title=f"ViT-Tiny, 64 tokens, {batch // 2} images a rank, two ranks, fp32 on CPU: median ms a step")
    for column in ("strategy", "alone", "together", "efficiency"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for name, row in figures.items():
        table.add_row(name, f"{row['apart_ms']:.1f}", f"{row['together_ms']:.1f}", f"{row['efficiency']:.3f}")
    Console(width=100).print(table)


def _parser() -> Parser:
    parser = Parser("python -m benchmarks.ranks", "Measure what training together costs (benchmarks/README.md).")
    parser.add_argument("--strategies", default="ddp", metavar="A,B", help=f"of: {', '.join(STRATEGIES)}; default: ddp")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images of a step, on both ranks; default: {BATCH}")
    parser.add_argument("--rounds", type=int, default=21, help="stretches of each; the median counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, date, versions and figures")
    return parser


if __name__ == "__main__":
    leave(main)
