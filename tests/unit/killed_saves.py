"""Saves a checkpoint again and again, each time in a process that kills itself one file operation later.

`python killed_saves.py FOLDER`: in FOLDER/3, where step 3 is saved after 1 and 2, and in FOLDER/2, where step 2 is
saved again, 0, 1, ... are what the kills before operation 0, 1, ... left; the last is of a save that came through. Each
save is followed by what an evaluation found.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from mixdist.engine.checkpoint import Checkpoints

CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def state(value: float) -> dict[str, Any]:
    """Return parts that tell one save from another."""
    return {"model": {"weight": torch.full((1000,), value)}, "progress": {"value": value}}


def kill_before(number: int, folder: Path) -> None:
    """Kill this process before its ``number``-th file operation in ``folder`` from now on, flushes included."""
    seen = 0
    own_fsync = os.fsync

    def operation(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES or (event == "open" and str(folder) in str(arguments[0])):
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    def fsync(descriptor: int) -> None:
        operation("os.mkdir", ())
        own_fsync(descriptor)

    os.fsync = fsync
    sys.addaudithook(operation)


def main(root: Path, step: int) -> None:
    """Make the folders of one step."""
    before = Checkpoints(root / "before", {}, keep=2, keep_best=True)
    for earlier in (1, 2):
        before.save(earlier, state(earlier))
        before.amend(earlier, {}, score=earlier)
        before.wait()
    status = None
    for number in range(200):
        folder = root / str(number)
        shutil.copytree(root / "before", folder)
        if (child := os.fork()) == 0:
            checkpoints = Checkpoints(folder, {}, keep=2, keep_best=True)
            kill_before(number, folder)
            checkpoints.save(step, state(9))
            checkpoints.amend(step, {"progress": {"value": 10}}, score=9)
            checkpoints.wait()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, status
    raise AssertionError("no save came through")


if __name__ == "__main__":
    for each in (3, 2):
        main(Path(sys.argv[1]) / str(each), each)
