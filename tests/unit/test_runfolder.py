"""The run folder: made, taken up or started afresh."""

import errno
import fcntl
import json
import re
import resource
import socket
import subprocess
import sys

import pytest
from tiny_run import tiny_config

from mixdist.config.read import read_config
from mixdist.errors import UserError
from mixdist.runfolder import RunFolder

FILES = ("config.yaml", "plan.json", "task.json", "metrics.jsonl", "result.json", "reconstruction.png")


@pytest.fixture
def earlier(tmp_path):
    """A folder with an earlier run in it, and a file of the user's."""
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.checkpoints.mkdir(parents=True)
    for name in FILES:
        (folder.path / name).write_text("earlier")
    (folder.checkpoints / "step-000000006.pt").write_text("of an earlier mixdist")
    (folder.checkpoints / "step-000000007").mkdir()
    (folder.checkpoints / "step-000000007" / "manifest.json").write_text("earlier")
    (folder.checkpoints / "step-000000008.partial").mkdir()
    for pointer in ("latest", "best"):
        (folder.checkpoints / pointer).write_text("step-000000007")
    (folder.path / "notes.txt").write_text("mine")
    return folder


def test_the_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.open("auto")
    assert folder.path.is_dir()


@pytest.mark.parametrize("resume", ["auto", "require"])
def test_an_earlier_run_is_left_as_it_is_to_be_taken_up(earlier, resume):
    earlier.open(resume)
    assert sorted(path.name for path in earlier.path.iterdir()) == sorted([*FILES, "notes.txt", "checkpoints"])
    assert sorted(path.name for path in earlier.checkpoints.iterdir()) == [
        "best", "latest", "step-000000006.pt", "step-000000007", "step-000000008.partial",
    ]  # fmt: skip


def test_fresh_removes_the_earlier_run_and_nothing_else(earlier):
    earlier.open("fresh")
    assert not list(earlier.checkpoints.glob("*"))
    assert [path.name for path in earlier.path.iterdir() if path.is_file()] == ["notes.txt"]


def test_fresh_removes_checkpoints_behind_a_link_to_another_disk(earlier, tmp_path):
    disk = earlier.checkpoints.rename(tmp_path / "disk")
    earlier.checkpoints.symlink_to(disk)
    earlier.open("fresh")
    assert earlier.checkpoints.is_symlink()
    assert not list(disk.iterdir())


def test_fresh_in_an_empty_place_just_starts(tmp_path):
    RunFolder(tmp_path / "run").open("fresh")
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("there", ["nothing", "folder", "empty checkpoints", "half a checkpoint"])
def test_require_without_a_checkpoint_is_refused(tmp_path, there):
    folder = RunFolder(tmp_path / "run")
    if there != "nothing":
        folder.path.mkdir()
    if there in ("empty checkpoints", "half a checkpoint"):
        folder.checkpoints.mkdir()
    if there == "half a checkpoint":
        (folder.checkpoints / "step-000000001.partial").mkdir()
    with pytest.raises(UserError, match=r"--resume: .*checkpoints holds no checkpoint; leave --resume out"):
        folder.open("require")


@pytest.mark.parametrize("place", ["run", "run/inside"])
def test_a_path_that_is_a_file_is_refused_by_name(tmp_path, place):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match=rf"run\.dir {tmp_path / place} cannot be made: "):
        RunFolder(tmp_path / place).open("auto")


def test_the_start_writes_a_config_that_reads_back_equal_the_plan_and_the_task(tmp_path):
    config = tiny_config(tmp_path / "set", tmp_path / "run", {"optim.ssl.base_lr": 1e-5, "seed": 3})
    folder = RunFolder(tmp_path / "run")
    folder.open("auto")
    folder.write_start(config, {"steps": 7, "notes": ["α"]}, {"classes": ["ä"]})
    assert read_config(["--config", str(folder.path / "config.yaml")]) == config
    assert json.loads((folder.path / "plan.json").read_text(encoding="utf-8")) == {"steps": 7, "notes": ["α"]}
    assert json.loads((folder.path / "task.json").read_text(encoding="utf-8")) == {"classes": ["ä"]}


def test_the_names_of_the_files(tmp_path):
    folder = RunFolder(tmp_path)
    assert [folder.checkpoints.name, folder.result.name, folder.reconstruction.name] == [
        "checkpoints", "result.json", "reconstruction.png",
    ]  # fmt: skip


# Two jobs


def other_job(folder):
    """Start a process that holds the folder until its input ends."""
    source = (
        "import sys; from pathlib import Path; from mixdist.runfolder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", source, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_job_in_the_folder_is_refused_with_the_first_one_s_process_and_host(tmp_path, monkeypatch):
    monkeypatch.setattr("mixdist.runfolder.PATIENCE_S", 0.0)
    folder = RunFolder(tmp_path / "run")
    with other_job(folder.path) as first:
        refusal = rf"run\.dir {folder.path} is in use by process {first.pid} on {re.escape(socket.gethostname())}; stop"
        with pytest.raises(UserError, match=refusal), folder.held():
            pass
        first.communicate("")
    with folder.held():
        assert folder.lock.exists()
    assert not list(folder.path.iterdir())


def test_a_folder_is_free_at_once_when_its_job_was_killed(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with other_job(folder.path) as first:
        first.kill()
    assert folder.lock.exists()
    with folder.held():
        pass
    assert not folder.lock.exists()


def test_where_the_file_system_has_no_locks_a_run_goes_on_without(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    with RunFolder(tmp_path / "run").held():
        assert (tmp_path / "run").is_dir()


def test_a_full_disk_is_a_fault_of_one_line_and_the_lock_holds_without_a_name_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr("mixdist.runfolder.PATIENCE_S", 0.0)
    folder = RunFolder(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # writes fail as they do on a full disk
    try:
        with folder.held():
            with pytest.raises(UserError, match=rf"run\.dir {folder.path} cannot be written: "):
                folder.write_start(tiny_config(tmp_path, tmp_path), {}, {})
            with pytest.raises(UserError, match="in use by process unknown"), folder.held():
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(folder.path.iterdir())
