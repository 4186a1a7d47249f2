"""Processes that mixdist starts import from where mixdist does, not from the folder in which the command was typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import launching
import pytest

import mixdist
from mixdist.child import child
from mixdist.doctor.ranks import Ranks
from mixdist.paper.runner import command

TELLS = "import json, sys; print(json.dumps([__name__, sys.argv[1:], sys.path])); sys.exit(7)"


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: that of a stranger's set, whose modules say that they were imported."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in ("runpy", "json", "numpy", "simplejpeg", "torch", "trackio", "mixdist"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\n1 / 0")
    monkeypatch.chdir(folder)
    return folder


def imported(folder: Path) -> str:
    """Return which of a stranger's modules were imported."""
    told = folder.parent / "imported"
    return told.read_text() if told.exists() else ""


def test_a_child_is_the_module_with_the_path_of_its_parent(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / 'it\'s "here" {0}'
    place.mkdir()
    (place / "tells.py").write_text(TELLS)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path, str(tmp_path / "é\udcff")])
    done = subprocess.run(child("tells", "-m", "b c"), stdout=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 7
    assert json.loads(done.stdout) == ["__main__", ["-m", "b c"], sys.path]
    assert imported(stranger) == ""


def test_no_module_is_started_past_it() -> None:
    package = Path(mixdist.__file__).parent
    assert [path.name for path in package.rglob("*.py") if re.search(r"""["']-m["']""", path.read_text())] == []


@pytest.mark.slow
def test_training_in_a_strangers_folder_runs_nothing_of_it(sets: Path, stranger: Path, tmp_path: Path) -> None:
    settings = {
        **launching.QUIET,
        **launching.TINY_VIT,
        "data.sl": sets / "whole",
        "data.cache": "none",
        "data.workers": 1,
        "method.arm": "sl",
        "method.sl_epochs": 1,
        "run.dir": tmp_path / "run",
    }
    done = launching.run(launching.mixdist("train", *launching.flags(settings)), stranger)
    assert (done.code, imported(stranger)) == (0, ""), done.err


@pytest.mark.distributed
@pytest.mark.slow
def test_ranks_that_a_grid_starts_run_nothing_of_it(stranger: Path) -> None:
    done = launching.run(command(["--data.sl", "nowhere"], 2), stranger)
    assert "mixdist: error: nowhere does not exist" in done.err
    assert "mixdist.train FAILED" in done.err  # torchrun's summary names what failed
    assert set(done.exit_codes) <= {2, -15}
    assert imported(stranger) == ""


@pytest.mark.distributed
@pytest.mark.slow
def test_ranks_that_the_doctor_starts_run_nothing_of_it(stranger: Path) -> None:
    with Ranks(2, gpus=False) as started:
        found = started.finding(timeout_s=120)
    assert (found.state, imported(stranger)) == ("ok", ""), found.said
