"""`mixdist sync` finds what waits for W&B, each part once and in the order of time, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from mixdist.cli import main
from mixdist.tracking.sync import mark_sent, unsent


def part(run: Path, name: str, sent: bool = False) -> Path:
    (folder := run / "wandb" / name).mkdir(parents=True)
    (folder / f"run-{name.split('-')[-1]}.wandb").write_bytes(b"W&B")
    if sent:
        mark_sent(folder)
    return folder


def test_parts_of_a_run_come_in_the_order_of_time_and_what_was_sent_does_not(tmp_path: Path) -> None:
    late = part(tmp_path / "a", "run-20260102_000000-aa")
    early = part(tmp_path / "a", "offline-run-20260101_000000-aa")
    part(tmp_path / "a", "offline-run-20251231_000000-aa", sent=True)
    (tmp_path / "a" / "wandb" / "latest-run").symlink_to(late)
    other = part(tmp_path / "deep" / "er" / "b", "offline-run-20250101_000000-bb")
    (tmp_path / "c" / "wandb").mkdir(parents=True)
    assert unsent(tmp_path) == [early, late, other]
    assert unsent(tmp_path / "a") == [early, late]
    assert unsent(tmp_path / "c") == []


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that wandb was given; it fails at one whose name ends in "bad"."""
    given: list[str] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        given.append(command[-1])
        return subprocess.CompletedProcess(command, int(command[-1].endswith("bad")))

    monkeypatch.setattr("mixdist.tracking.sync.subprocess.run", run)
    return given


def test_an_upload_that_fails_is_named_and_taken_up_again_there(
    tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [part(tmp_path / "a", f"offline-run-2026010{day}_000000-{name}") for day, name in enumerate(("x", "bad"))]
    assert main(["sync", str(tmp_path / "a"), str(tmp_path)]) == 1
    assert f"wandb could not upload {parts[1]}" in capsys.readouterr().err
    assert main(["sync", str(tmp_path)]) == 1
    assert uploads == [str(each) for each in (*parts, parts[1])]


def test_nothing_to_upload_is_said_and_a_wrong_path_is_named(
    tmp_path: Path, uploads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    part(tmp_path / "a", "run-20260102_000000-aa", sent=True)
    assert main(["sync", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("nothing to upload")
    assert main(["sync", str(tmp_path / "absent")]) == 2
    assert "absent is no folder" in capsys.readouterr().err
    assert uploads == []
