"""`mixdist sync`: bring to W&B what runs have kept for it, with wandb's own upload."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from mixdist.arguments import Parser
from mixdist.child import child
from mixdist.errors import MixdistError, UserError

DEPTH = 3  #: folders below a given one that are searched for runs


def main(argv: Sequence[str]) -> int:
    """Upload what the runs of the command line have and W&B lacks; return the exit code.

    Raises:
        UserError: a path that is no folder, or wandb is not installed.
        MixdistError: wandb could not upload a part; those before it are there.
    """
    parser = Parser("mixdist sync", "Upload to Weights & Biases what runs kept while it could not be reached.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or folder that holds runs")
    runs: list[Path] = parser.parse_args(argv).runs
    for run in runs:
        if not run.is_dir():
            raise UserError(f"{run} is no folder; give run folders, or a folder that holds some")
    if find_spec("wandb") is None:
        raise UserError("wandb is not installed; install it with: pip install wandb")
    parts = [part for run in runs for part in unsent(run)]
    if not parts:
        sys.stdout.write("nothing to upload: W&B has all that these runs kept for it\n")
        return 0
    _upload(list(dict.fromkeys(parts)))
    return 0


def unsent(folder: Path) -> list[Path]:
    """Return the parts that wait in a run folder, or in the runs below it: of each run the oldest first.

    A part is a folder of one start of one run; that it was sent says an empty file, which wandb knows as well.
    """
    found = []
    for depth in range(DEPTH + 1):
        for kept in sorted(folder.glob("*/" * depth + "wandb/*run-*/run-*.wandb")):
            if not kept.parent.is_symlink() and not marker(kept).exists():
                found.append(kept.parent)
    return sorted(found, key=lambda part: (part.parent, part.name.removeprefix("offline-")))


def marker(kept: Path) -> Path:
    """Return the file whose presence says that W&B has all of ``kept``, a part's ``run-ID.wandb``."""
    return kept.with_name(kept.name + ".synced")


def mark_sent(part: Path) -> None:
    """Note that W&B has all of a part."""
    for kept in part.glob("run-*.wandb"):
        marker(kept).touch()


def _upload(parts: list[Path]) -> None:
    with TemporaryDirectory() as logs:  # else wandb's own logs land where the command was typed
        environment = {"WANDB_ERROR_REPORTING": "false", **os.environ, "WANDB_DIR": logs, "WANDB_MODE": "online"}
        for part in parts:
            command = child("wandb", "sync", "--include-online", str(part.absolute()))
            if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode:
                raise MixdistError(
                    f"wandb could not upload {part}, what it said stands above; the same command goes on there"
                )
            mark_sent(part)
