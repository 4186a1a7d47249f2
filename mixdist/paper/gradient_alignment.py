"""`mixdist reproduce gradient-alignment`: cosines between the objectives' gradients, beside Sec. 3.2.1 of the paper.

Trains a run that measures them, or reads those of runs that did (`train.align_every`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from mixdist import train
from mixdist.arguments import OwnOptions, written
from mixdist.config.read import read_config
from mixdist.config.schema import Config
from mixdist.data.packing.summary import plain_or_terminal, print_line
from mixdist.errors import UserError
from mixdist.files import write_json
from mixdist.plan import both_heads, epochs_of
from mixdist.runfolder import RunFolder
from mixdist.world import read_world

PROGRAM = "mixdist reproduce gradient-alignment"
PAPER = {"cos_ssl_sl": 0.018, "cos_ssl_mix": 0.791, "cos_sl_mix": 0.598}  # Sec. 3.2.1; averages, of what is not said
LABELS = {"cos_ssl_sl": "SSL and SL", "cos_ssl_mix": "SSL and MIX", "cos_sl_mix": "SL and MIX"}
PHASES = ("mix", "sl")
EVERY = 10  # steps, where the settings do not say
HELP = f"""\
{PROGRAM} [--run DIR ...] [--json FILE], or all that mixdist train takes:
cosines between the objectives' gradients in the backbone's last layer, beside the paper's (docs/gradient-alignment.md).
  --run DIR ...  read runs that were trained with --train.align_every, instead of training one
  --json FILE    write all figures
Trains by default with --train.align_every {EVERY}; a run that is finished is not trained again.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train or read, and print the means beside the paper's; return the exit code, of training where that failed.

    Raises:
        UserError: see `read_config`; a run without cosines; a file that cannot be written.
    """
    options, rest = _parse(list(sys.argv[1:] if argv is None else argv))
    folders = options.run
    if not folders:
        config = read_config(rest, PROGRAM, options.flags)
        _check(config)
        measuring = [] if config.train.align_every else [f"--train.align_every={EVERY}"]
        main_rank = read_world().is_main
        if (code := train.main([*rest, *measuring])) or not main_rank:
            return code or 0
        folders = [config.run.dir]
    elif rest:
        raise UserError(f"{PROGRAM}: {rest[0]} is a setting of training, but --run reads runs that are trained already")
    runs = {str(folder): read_cosines(folder) for folder in folders}
    together = {phase: [found for run in runs.values() for found in run[phase]] for phase in PHASES}
    means, ranges = ({phase: _each(of, together[phase]) for phase in PHASES} for of in (fmean, _range))
    unfinished = {str(folder): stands_at(folder) for folder in folders if not RunFolder(folder).result.is_file()}
    console = plain_or_terminal()
    _print(console, means, ranges, {phase: len(found) for phase, found in together.items()}, len(runs))
    for folder, step in unfinished.items():
        print_line(console, f"note: {folder} is not finished: it stands at step {step}")
    if options.json:
        figures = {"means": means, "ranges": ranges, "paper": PAPER, "unfinished": unfinished, "runs": runs}
        with written("--json", options.json):
            write_json(options.json, figures)
    return 0


def _check(config: Config) -> None:
    """Refuse, before hours of training, a run that never trains both heads."""
    if not both_heads(epochs_of(config.method)):
        raise UserError(
            f"{PROGRAM}: method.arm {config.method.arm} with method.ssl_epochs {config.method.ssl_epochs} and "
            f"method.sl_epochs {config.method.sl_epochs} never trains both heads, so there are no cosines; use "
            f"mixtraining or ssl+sl"
        )


def read_cosines(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return for each phase the records of a run that have cosines, as step, epoch and the three.

    Raises:
        UserError: there is no such run, or it has none.
    """
    kept, records = ("step", "epoch", *PAPER), _records(folder)
    found: dict[str, list[dict[str, Any]]] = {
        phase: [
            {key: record[key] for key in kept}
            for record in records
            if record["phase"] == phase and record.get("cos_ssl_sl") is not None
        ]
        for phase in PHASES
    }
    if not any(found.values()):
        raise UserError(
            f"{folder} has no cosines: train it with --train.align_every {EVERY}, in an arm that trains both heads "
            f"(mixtraining or ssl+sl)"
        )
    return found


def stands_at(folder: Path) -> int:
    """Return the step of a run that is not finished: where it was stopped, else where its records end."""
    stopped = RunFolder(folder).stopped
    last = json.loads(stopped.read_text(encoding="utf-8")) if stopped.is_file() else _records(folder)[-1]
    return int(last["step"])


def _records(folder: Path) -> list[dict[str, Any]]:
    path = RunFolder(folder).metrics
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give the folder of a run") from None
    except ValueError as error:
        raise UserError(f"{path} holds a line that is no record ({error})") from None


def _each(of: Callable[[list[float]], Any], found: list[dict[str, Any]]) -> dict[str, Any] | None:
    return {key: of([one[key] for one in found]) for key in PAPER} if found else None


def _range(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = OwnOptions(PROGRAM, HELP)
    parser.add_argument("--run", type=Path, nargs="+", default=[])
    parser.add_argument("--json", type=Path)
    return parser.split(argv)


Figures = dict[str, dict[str, Any] | None]  # by phase and cosine; None where a phase has no record


def _print(console: Console, means: Figures, ranges: Figures, counts: dict[str, int], runs: int) -> None:
    table = Table("gradients of", *(f"{phase} phase" for phase in PHASES), "paper")
    for column in table.columns[1:]:
        column.justify = "right"
    for key, label in LABELS.items():
        ours = [_cell(key, means[phase], ranges[phase], counts[phase]) for phase in PHASES]
        table.add_row(label, *ours, f"{PAPER[key]:.3f}")
    console.print(table)
    told = ", ".join(f"{_count(counts[phase], 'record')} of the {phase} phase" for phase in PHASES)
    print_line(console, f"cosines, means (least to greatest) over {told}, of {_count(runs, 'run')}")


def _cell(key: str, mean: dict[str, Any] | None, between: dict[str, Any] | None, count: int) -> str:
    if mean is None or between is None:
        return "-"
    least, greatest = between[key]
    return f"{mean[key]:.3f}" + (f" ({least:.3f} to {greatest:.3f})" if count > 1 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
