"""`mixdist doctor`: whether this machine can train, in about ten seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from mixdist.arguments import Parser, written
from mixdist.data.packing.summary import plain_or_terminal
from mixdist.doctor.finding import Finding
from mixdist.doctor.hardware import gpus
from mixdist.doctor.libraries import deepspeed, ffmpeg, wandb
from mixdist.doctor.ranks import Ranks, interfaces
from mixdist.doctor.sets import packed_set
from mixdist.doctor.system import disk, open_files, shared_memory
from mixdist.errors import UserError
from mixdist.files import write_json

SICK = 1
STYLE = {"ok": "green", "note": "yellow", "fail": "bold red"}


def main(argv: Sequence[str]) -> int:
    """Look at the machine and print what was found; return 0, or 1 where something keeps it from training.

    Raises:
        UserError: a number out of range, or a file that cannot be written.
    """
    arguments = _parser().parse_args(argv)
    if arguments.timeout <= 0:
        raise UserError(f"--timeout {arguments.timeout:g} is out of range; it should be above 0 seconds")
    findings = examine(arguments.run_dir, arguments.data, None if arguments.no_ranks else arguments.timeout)
    table = Table("", "found", "state", "what to do")
    for one in findings:
        # Text: rich would take the brackets of 'mixdist[deepspeed]', or of a folder's name, for markup.
        table.add_row(one.name, Text(one.said), Text(one.state, STYLE[one.state]), Text(one.mend))
    plain_or_terminal().print(table)
    if arguments.json:
        with written("--json", arguments.json):
            write_json(arguments.json, {"findings": [asdict(one) for one in findings]})
    return SICK if any(one.state == "fail" for one in findings) else 0


def examine(run_dir: Path, data: str | None, ranks_s: float | None) -> list[Finding]:
    """Return all findings; the ranks' test runs beside the others, for ``ranks_s`` seconds at most, or not at all."""
    if ranks_s is None:
        return _findings(run_dir, data)
    gpus = torch.cuda.device_count()
    with Ranks(gpus or 2, bool(gpus)) as ranks:
        return [*_findings(run_dir, data), ranks.finding(ranks_s)]


def _findings(run_dir: Path, data: str | None) -> list[Finding]:
    count = torch.cuda.device_count()
    findings = [*gpus(), interfaces(), shared_memory(count), open_files(), *disk(run_dir)]
    return [*findings, ffmpeg(), deepspeed(count), wandb(), *([packed_set(data)] if data else [])]


def _parser() -> Parser:
    parser = Parser("mixdist doctor", "Say whether this machine can train, and what to do where it cannot.")
    parser.add_argument("--data", metavar="DIR", help="a packed set (folder or URL), to be checked too")
    parser.add_argument("--run-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs will lie (runs)")
    parser.add_argument(
        "--timeout", type=float, default=30, metavar="S", help="seconds that the ranks' test may take (%(default)s)"
    )
    parser.add_argument(
        "--no-ranks", action="store_true", help="leave that test out: beside a training it takes GPU memory and time"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings")
    return parser
