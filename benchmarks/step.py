"""`python -m benchmarks.step`: what the engine adds to a training step, beside a loop written by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.entry import leave
from benchmarks.machine import measured_on
from benchmarks.step_models import CASES, by_engine, by_hand, digits, make_trainer
from mixdist.arguments import Parser
from mixdist.errors import UserError
from mixdist.files import write_json
from mixdist.world import World

ALONE = World.alone(torch.device("cpu"))


def main(argv: Sequence[str]) -> int:
    """Measure, print, and write what was asked for; return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.rounds < 2:
        raise UserError(f"--rounds {arguments.rounds} is out of range; it should be 2 or more")
    names = arguments.models.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise UserError(f"--models: there is no {unknown[0]!r}; there are: {', '.join(CASES)}")
    torch.set_num_threads(arguments.threads)
    figures = {}
    with tempfile.TemporaryDirectory() as work:
        for name, case in ((name, CASES[name]) for name in names):
            data = digits(Path(work))
            engine = by_engine(make_trainer(case, data, Path(work) / "engine", ALONE))
            hand = by_hand(make_trainer(case, data, Path(work) / "hand", ALONE))
            figures[name] = compare(engine, hand, case.steps, arguments.rounds)
    _print(figures)
    if arguments.json:
        head = measured_on()
        write_json(
            arguments.json, head | {"threads": arguments.threads, "rounds": arguments.rounds, "figures": figures}
        )
    return 0


def compare(engine: Iterator[None], hand: Iterator[None], steps: int, rounds: int) -> dict[str, float]:
    """Time stretches of both in turn; return the medians in ms a step, and of the differences within a round."""
    for each in (engine, hand):
        next(each)  # warm-up
    pairs = []
    for number in range(rounds):
        first, second = (engine, hand) if number % 2 else (hand, engine)  # neither always follows the other
        seconds = {id(each): _seconds(each) for each in (first, second)}
        pairs.append((1000 * seconds[id(engine)] / steps, 1000 * seconds[id(hand)] / steps))
    return {
        "engine_ms": median(one for one, _ in pairs),
        "hand_ms": median(other for _, other in pairs),
        "overhead_ms": median(one - other for one, other in pairs),
        "overhead_percent": median(100 * (one / other - 1) for one, other in pairs),
    }


def _seconds(stretch: Iterator[None]) -> float:
    start = time.perf_counter()
    next(stretch)
    return time.perf_counter() - start


def _print(figures: dict[str, dict[str, float]]) -> None:
    table = Table(title="a training step in MIX, CPU, fp32: median ms")
    for column in ("model", "by hand", "engine", "engine adds", "in percent"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, case in figures.items():
        values = [f"{case[key]:.3f}" for key in ("hand_ms", "engine_ms", "overhead_ms")]
        table.add_row(name, *values, f"{case['overhead_percent']:.1f}")
    Console(width=100).print(table)


def _parser() -> Parser:
    parser = Parser("python -m benchmarks.step", "Measure what the engine adds to a step (benchmarks/README.md).")
    parser.add_argument("--rounds", type=int, default=31, help="stretches of each; the median counts")
    parser.add_argument("--models", default="null,vit", metavar="A,B", help="only these; default: null,vit")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="write machine, date, versions and figures")
    return parser


if __name__ == "__main__":
    leave(main)
