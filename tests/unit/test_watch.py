"""`mixdist watch` shows a run from its folder alone: as it grows, is killed, goes on, is stopped, and ends."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_runs import make_records, write_run

from mixdist.cli import main
from mixdist.errors import UserError
from mixdist.runfolder import RunFolder
from mixdist.tracking.console import Console
from mixdist.tracking.screens import PlainScreen
from mixdist.tracking.watch import Metrics, watch

LINES = [json.dumps(record.as_dict()) + "\n" for record in make_records("mixtraining", 0, 70.0)]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that has started and written nothing yet."""
    phases = [{"name": name, "epochs": 4, "steps": 40} for name in ("ssl", "mix", "sl")]
    (tmp_path / "plan.json").write_text(json.dumps({"phases": phases}))
    return RunFolder(tmp_path)


def see(folder: RunFolder, changes: Iterator[None]) -> str:
    """Watch a folder that changes between two looks, and return what was shown."""
    stream = io.StringIO()
    watch(folder, Console(PlainScreen(stream, clock=lambda: 0.0)), lambda: next(changes))
    return stream.getvalue()


def test_a_run_is_shown_as_it_grows_until_its_result_is_there(folder: RunFolder) -> None:
    def grow() -> Iterator[None]:
        path = folder.path / "metrics.jsonl"
        for place in range(0, len(LINES), 7):
            with path.open("a") as file:
                file.write("".join(LINES[place : place + 7])[:-20])  # a line half written
            yield
            with path.open("a") as file:
                file.write("".join(LINES[place : place + 7])[-20:])
            yield
        folder.result.write_bytes((write_run(folder.path / "other") / "result.json").read_bytes())
        yield

    with folder.held():
        shown = see(folder, grow())
    assert shown.count("top-1") == 8 + 1  # an evaluation an epoch of MIX and SL, and the summary
    assert [line.split()[0] for line in shown.splitlines() if "phase " in line and " of 3:" in line] == [
        "ssl",
        "mix",
        "sl",
    ]
    assert "accuracy    70.00 % top-1" in shown
    assert "no process" not in shown


def test_a_resume_that_cuts_the_file_shows_only_what_is_new(folder: RunFolder) -> None:
    metrics = Metrics(folder.path / "metrics.jsonl")
    assert list(metrics.new()) == []
    (folder.path / "metrics.jsonl").write_text("".join(LINES[:10]))
    assert [record.step for record in metrics.new()] == list(range(2, 21, 2))
    again = [json.dumps({**json.loads(line), "latency_s": 999.0}) + "\n" for line in LINES[6:8]]
    (folder.path / "new").write_text("".join(LINES[:6] + again))
    (folder.path / "new").replace(folder.path / "metrics.jsonl")
    assert [(record.step, record.latency_s) for record in metrics.new()] == [(14, 999.0), (16, 999.0)]
    assert list(metrics.new()) == []


def test_a_run_that_nobody_trains_or_that_was_stopped_says_so_once(folder: RunFolder) -> None:
    def stop() -> Iterator[None]:
        yield
        yield
        folder.write_stopped(7, "stopped by SIGTERM on rank 0 at step 7 of 120")
        yield
        folder.result.write_bytes((write_run(folder.path / "other") / "result.json").read_bytes())
        yield

    shown = see(folder, stop())
    assert shown.count("no process trains here now; waiting for its next start") == 1
    assert shown.count("stopped by SIGTERM on rank 0 at step 7 of 120; waiting for its next start") == 1


def test_once_shows_how_far_it_is_and_leaves(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.path / "metrics.jsonl").write_text("".join(LINES[:10]) + LINES[10][:30])
    assert main(["watch", str(folder.path), "--once"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("ssl  epoch 2/4  step 20/40  loss")
    with folder.held():
        assert main(["watch", str(folder.path), "--once"]) == 0
    assert "in training" in capsys.readouterr().out.splitlines()


def test_once_replays_nothing(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.path / "metrics.jsonl").write_text("".join(LINES[:50]))  # SSL, MIX and a quarter of SL
    folder.write_stopped(100, "stopped by SIGTERM on rank 0 at step 100 of 120")
    assert main(["watch", str(folder.path), "--once"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == [
        f"watching {folder.path}",
        "stopped by SIGTERM on rank 0 at step 100 of 120",
        "sl  phase 3 of 3: 4 epochs, 40 steps",
    ]
    assert shown[3].startswith("sl  epoch 2/4  step 20/40  top-1")
    assert shown[4].startswith("sl  epoch 2/4  step 20/40  loss")
    assert "ETA phase" in shown[4]
    assert len(shown) == 5
    folder.result.write_bytes((write_run(folder.path / "other") / "result.json").read_bytes())
    assert main(["watch", str(folder.path), "--once"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "accuracy    70.00 % top-1" in "\n".join(shown)
    assert len(shown) < 12


def test_once_before_the_first_record_says_the_phase(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(folder.path), "--once"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ssl  phase 1 of 3: 4 epochs, 40 steps"


def test_a_finished_run_is_shown_with_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    phases = [{"name": name, "epochs": 4, "steps": 40} for name in ("ssl", "mix", "sl")]
    (run / "plan.json").write_text(json.dumps({"phases": phases}))
    assert main(["watch", str(run)]) == 0
    assert "accuracy    70.00 % top-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.json", None, "holds no run: no plan.json"),
        ("plan.json", "[", "cannot be read as a plan"),
        ("plan.json", '{"phases": [{"name": "ssl"}]}', "cannot be read as a plan"),
        ("metrics.jsonl", LINES[0] + "{}\n", "line 2 is not a record"),
        ("result.json", "{", "is not JSON"),
    ],
)
def test_what_cannot_be_read_is_named(folder: RunFolder, name: str, content: str | None, message: str) -> None:
    (folder.path / name).unlink(missing_ok=True)
    if content is not None:
        (folder.path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        see(folder, iter([None]))
