"""On the PYTHONPATH of a training that is to fail: breaks one rank, as MIXDIST_SABOTAGE=KIND:RANK:STEP says.

Python imports this by itself at its start. Kinds: "nan" spoils the images of one step; "save-N" kills the process at
the N-th file of the first checkpoint from that step on.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def spoil_images(step: int) -> None:
    """Make the images of the update after ``step`` updates NaN."""
    from mixdist.data.batch import Preparation
    from mixdist.engine.update import Updater

    update, prepare, now = Updater.__call__, Preparation.__call__, [False]

    def updating(self: Updater, batches: Any, number: int, *rest: Any, **named: Any) -> Any:
        now[0] = self.phase.first_step + number == step
        return update(self, batches, number, *rest, **named)

    def preparing(self: Preparation, batch: Any) -> Any:
        inputs = prepare(self, batch)
        return replace(inputs, images=inputs.images * math.nan) if now[0] else inputs

    Updater.__call__, Preparation.__call__ = updating, preparing  # type: ignore[method-assign]


def kill_in_save(step: int, file: int) -> None:
    """Let the process die while the checkpoint's ``file``-th file is written, not yet on the disk."""
    from mixdist.engine.checkpoint import write

    sealed, written = write._sealed, [0]

    def sealing(path: Path) -> Any:
        if int(path.parent.name.split("-")[1].split(".")[0]) >= step:
            if written[0] == file:
                os.kill(os.getpid(), signal.SIGKILL)
            written[0] += 1
        return sealed(path)

    write._sealed = sealing


if sabotage := os.environ.get("MIXDIST_SABOTAGE"):
    kind, rank, at = sabotage.split(":")
    if os.environ.get("RANK") == rank and "mixdist.train" in sys.orig_argv:
        if kind == "nan":
            spoil_images(int(at))
        else:
            kill_in_save(int(at), int(kind.removeprefix("save-")))
