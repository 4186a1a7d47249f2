"""error.json: what the first rank that failed by itself leaves in the run folder: where it was, on which samples."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname

from mixdist.config.read import to_yaml
from mixdist.engine import heartbeat
from mixdist.engine.loop import Trainer
from mixdist.files import write_json
from mixdist.world import describe, is_own


@contextmanager
def error_kept(trainer: Trainer, path: Path) -> Iterator[None]:
    """Write an error that this rank alone has to ``path``, unless another rank was first; it is raised all the same."""
    try:
        yield
    except Exception as error:
        if is_own(error):
            with suppress(OSError):  # the error may be that of the disk
                _write(trainer, path, error)
        raise


def _write(trainer: Trainer, path: Path, error: Exception) -> None:
    beat = heartbeat.last()
    report = {
        "error": describe(error),
        "rank": trainer.world.rank,
        "host": gethostname(),
        "step": trainer.progress.step,
        "phase": beat.phase,
        "stage": beat.stage,
        "samples": _samples(trainer),
        "config_hash": hashlib.sha256(to_yaml(trainer.config).encode()).hexdigest()[:16],
        "plan_hash": trainer.plan.hash,
        "traceback": "".join(traceback.format_exception(error)),
    }
    own = path.with_name(f"{path.name}.{trainer.world.rank}")
    write_json(own, report)
    try:
        os.link(own, path)  # of two ranks that fail at once, one is the first
    except FileExistsError:
        pass
    finally:
        own.unlink()


def _samples(trainer: Trainer) -> list[str] | None:
    """Return the samples of the step; None where the device, having failed, does not say which rows counted."""
    try:
        return trainer.under_way()
    except RuntimeError:
        return None
