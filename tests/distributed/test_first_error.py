"""Whatever the others say, the first error of the first rank that failed stands last on the console."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, Done, environment, family, records, start, train, train_here, wait_for

from benchmarks.faults_run import ranks_of

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]

RANKS = 3
BROKEN = """
import os, sys
if os.environ.get("RANK") == "1" and "mixdist.train" in sys.orig_argv:
    import {module} as module
    def broken(*_, **__):
        raise ValueError("no such column")
    module.{name} = broken
"""


def root_cause(done: Done) -> str:
    """Return the last part of what torchrun says, which ends its output."""
    assert done.code != 0
    return done.err.rpartition("Root Cause (first observed failure):")[2]


@pytest.mark.parametrize(
    ("module", "name"),
    [("mixdist.engine.update", "Updater._backward"), ("mixdist.engine.strategy", "Replicas.moments")],
    ids=["forward", "checkpoint"],
)
def test_an_error_of_rank_1_in_training(packed_sets: Path, tmp_path: Path, module: str, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(module=module, name=name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}:{environment().get('PYTHONPATH', '')}")
        process = start(train(RANKS, {**SETTINGS, "data.sl": packed_sets / "digits"}), tmp_path)
    out, err = process.communicate(timeout=TIMEOUT_S)
    cause = root_cause(Done(process.returncode, out, err))
    assert "rank      : 1 (" in cause
    assert "ValueError: no such column" in cause
    report = json.loads((tmp_path / "run" / "error.json").read_text())
    assert (report["error"], report["rank"], report["phase"]) == ("ValueError: no such column", 1, "ssl")
    assert report["samples"]
    assert all("train-000" in name for name in report["samples"]), report["samples"]
    assert "broken" in report["traceback"]
    assert not list((tmp_path / "run").glob("error.json.*"))
    process = start(train(RANKS, {**SETTINGS, "data.sl": packed_sets / "digits"}), tmp_path)  # goes on where it ended
    assert process.wait(TIMEOUT_S) == 0
    assert not (tmp_path / "run" / "error.json").exists()


def test_the_killed_loaders_of_rank_1(packed_sets: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data.sl": packed_sets / "digits", "data.cache": "none", "data.workers": 1}
    process = start(train(RANKS, settings), tmp_path)
    wait_for(lambda: records(tmp_path / "run"), process)
    rank = ranks_of(process.pid)[1]
    for loader in family(rank)[1:]:
        os.kill(loader, signal.SIGKILL)
    out, err = process.communicate(timeout=TIMEOUT_S)
    cause = root_cause(Done(process.returncode, out, err))
    assert "rank      : 1 (" in cause
    assert "a process that decodes images was ended by signal 9" in cause


def test_a_disk_that_is_full_for_a_record_is_a_line_for_the_user(
    packed_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mixdist.tracking.jsonl.JsonLines.log", full)
    assert train_here({**SETTINGS, "data.sl": packed_sets / "digits", "run.dir": tmp_path / "run"}) == 2
    assert capsys.readouterr().err == (
        f"mixdist: error: a file of run.dir {tmp_path}/run cannot be written (No space left on device); make room, "
        f"then the same command goes on from the newest checkpoint\n"
    )
