"""The rules between the rooms, and what a command may not load to say a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "timm", "wandb", "matplotlib", "sklearn")


def test_each_room_imports_only_rooms_to_its_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("module", ["mixdist.config.read", "mixdist.cli", "mixdist.report.compare", "mixdist.plan"])
def test_what_answers_at_once_loads_nothing_heavy(module: str) -> None:
    script = f"import {module}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
