"""The run that nothing disturbs, against which disturbed ones are held."""

from __future__ import annotations

from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import run, train


@pytest.fixture(scope="session")
def undisturbed(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of ``disturbing.SETTINGS`` on two ranks, from start to end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(train(2, {**SETTINGS, "data.sl": packed_sets / "digits"}), folder)
    assert done.code == 0, done.err
    return folder / "run"
