"""Whatever trackio does, training goes on: a fake trackio that raises or hangs, and the real one where it is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_records

from mixdist.config.run_section import TrackingConfig
from mixdist.errors import UserError
from mixdist.tracking import PhaseInfo, RunInfo, main_trackers
from mixdist.tracking.trackio_sink import Trackio

RECORDS = make_records("mixtraining", 0, 70.0)[:6]
RESULT: dict[str, Any] = {}
FAKE = """
import json, os, pathlib, sys, time

FILE = pathlib.Path(os.environ["FAKE_TRACKIO"])

def note(*content):
    with FILE.open("a") as file:
        file.write(json.dumps(content) + "\\n")

class Run:
    def log(self, values, step):
        note("log", step, values)

    def finish(self):
        note("finish")

def init(**options):
    how = os.environ.get("FAKE_FAULT")
    if how == "raises":
        raise RuntimeError("no room\\nfor trackio")
    while how == "hangs":
        time.sleep(3600)
    print("* a banner")
    note("init", options, {name: value for name, value in os.environ.items() if name.startswith(("TRACKIO", "HF_"))})
    return Run()
"""
STORAGE = """
import os

class SQLiteStorage:
    @staticmethod
    def get_max_step_for_run(project, name):
        return int(os.environ["FAKE_STEP"]) if "FAKE_STEP" in os.environ else None
"""


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trackio that notes in this file what it is told."""
    package = tmp_path / "fake" / "trackio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (package / "sqlite_storage.py").write_text(STORAGE)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("FAKE_TRACKIO", str(tmp_path / "noted.jsonl"))
    return tmp_path / "noted.jsonl"


def info(folder: Path, carried: dict[str, str], **config: Any) -> RunInfo:
    phases = (PhaseInfo("ssl", 4, 40),)
    return RunInfo(folder, config, phases, 0, "seed0", "trees", "sl", world_size=2, tags=("sl",), carried=carried)


def track(folder: Path, said: list[str], close_timeout_s: float = 60.0, **carried: str) -> dict[str, str]:
    tracker = Trackio("forest", said.append, close_timeout_s)
    tracker.start(info(folder, carried, data={"sl": Path("/secret/set")}))
    for record in RECORDS:
        tracker.log(record)
    tracker.finish(RESULT)
    return carried


def test_numbers_arrive_by_their_step_and_nothing_leaves_this_machine(
    tmp_path: Path, noted: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("TRACKIO_DIR", "here")
    said: list[str] = []
    name = track(tmp_path, said)["trackio"]
    (_, options, environment), *logged, finished = [json.loads(line) for line in noted.read_text().splitlines()]
    assert environment == {"TRACKIO_DIR": "here", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    assert (options["project"], options["group"], options["resume"]) == ("forest", "trees", "allow")
    assert options["name"] == name
    assert name.startswith("seed0-")
    assert options["config"] == {"data": {"sl": "set"}, "run_facts": {}, "arm": "sl", "tags": ["sl"]}
    assert [(step, values["train/lr"]) for _, step, values in logged] == [(one.step, one.lr) for one in RECORDS]
    assert all("step" not in values for _, _, values in logged)
    assert finished == ["finish"]
    assert said == [f"trackio: {name}; look at it with: trackio show --project forest"]
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_keeps_its_name_and_a_step_is_not_taken_twice(
    tmp_path: Path, noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP", str(RECORDS[3].step))
    assert track(tmp_path, [], trackio="seed0-1234") == {"trackio": "seed0-1234"}
    first, *logged, _ = [json.loads(line) for line in noted.read_text().splitlines()]
    assert first[1]["name"] == "seed0-1234"
    assert [step for _, step, _ in logged] == [one.step for one in RECORDS[4:]]


def test_an_error_turns_it_off_with_one_line(tmp_path: Path, noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAULT", "raises")
    said: list[str] = []
    track(tmp_path, said)
    assert said[1:] == ["trackio is off for the rest of this run (for trackio)"]


def test_a_process_that_cannot_be_started_turns_it_off(
    tmp_path: Path, noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no memory")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    said: list[str] = []
    track(tmp_path, said)
    assert said == ["trackio is off for the rest of this run (no memory)"]


def test_a_trackio_that_hangs_holds_up_neither_the_training_nor_its_end(
    tmp_path: Path, noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "hangs")
    said: list[str] = []
    tracker = Trackio("forest", said.append, 0.2)
    tracker.start(info(tmp_path, {}))
    for step in range(1, 3000):  # far more than pipe and queue hold
        tracker.log(replace(RECORDS[0], step=step))
    tracker.finish(RESULT)
    assert "trackio did not finish in 0.2 s and is left; metrics.jsonl has all records" in said
    assert tracker._child is not None
    assert tracker._child.wait(60) == -signal.SIGKILL
    assert not any("is off" in line for line in said)


def test_it_is_off_unless_asked_for_and_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [
        [type(one).__name__ for one in main_trackers(TrackingConfig(wandb="disabled", trackio=asked))._trackers]
        for asked in (False, True)
    ]
    assert kinds == [["JsonLines", "Console"], ["JsonLines", "Console", "Trackio"]]
    monkeypatch.setattr("mixdist.tracking.trackio_sink.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'mixdist\[trackio\]'"):
        Trackio("forest", print, 1.0).start(info(tmp_path, {}))


ASK = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("forest", sys.argv[1])))
"""


@pytest.mark.skipif(
    find_spec("trackio") is None, reason="trackio is not installed; .ci/run installs it with the dev extra"
)
def test_the_real_trackio_has_each_step_once_over_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "there"))
    said: list[str] = []
    carried = track(tmp_path, said)
    track(tmp_path, said, **carried)
    done = subprocess.run([sys.executable, "-c", ASK, carried["trackio"]], capture_output=True, text=True, check=True)
    logged = json.loads(done.stdout)
    assert [(one["step"], one["train/lr"]) for one in logged] == [(one.step, one.lr) for one in RECORDS]
    assert len(said) == 2
