"""The settings of a small training that tests disturb."""

from __future__ import annotations

from typing import Any

from launching import QUIET, TINY_VIT

from benchmarks.faults_run import METHOD

SETTINGS: dict[str, Any] = {
    **QUIET,
    **TINY_VIT,
    **METHOD,
    "run.dir": "run",
}
