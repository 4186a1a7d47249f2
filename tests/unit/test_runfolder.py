"""The run folder: made, taken up or started afresh."""

import json

import pytest
from tiny_run import tiny_config

from mixdist.config.read import read_config
from mixdist.errors import UserError
from mixdist.runfolder import RunFolder

FILES = ("config.yaml", "plan.json", "metrics.jsonl", "result.json", "reconstruction.png")


@pytest.fixture
def earlier(tmp_path):
    """A folder with an earlier run in it, and a file of the user's."""
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.checkpoints.mkdir(parents=True)
    for name in FILES:
        (folder.path / name).write_text("earlier")
    (folder.checkpoints / "step-000000007.pt").write_text("earlier")
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
    assert list(earlier.checkpoints.iterdir()) == [earlier.checkpoints / "step-000000007.pt"]


def test_fresh_removes_the_earlier_run_and_nothing_else(earlier):
    earlier.open("fresh")
    assert not list(earlier.checkpoints.glob("*"))
    assert [path.name for path in earlier.path.iterdir() if path.is_file()] == ["notes.txt"]


def test_fresh_removes_checkpoints_behind_a_link_to_another_disk(earlier, tmp_path):
    disk = earlier.checkpoints.rename(tmp_path / "disk")
    earlier.checkpoints.symlink_to(disk)
    earlier.open("fresh")
    assert not list(earlier.checkpoints.glob("step-*.pt"))


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
        (folder.checkpoints / "step-000000001.pt.partial").write_text("half")
    with pytest.raises(UserError, match=r"--resume: .*checkpoints holds no checkpoint; leave --resume out"):
        folder.open("require")


@pytest.mark.parametrize("place", ["run", "run/inside"])
def test_a_path_that_is_a_file_is_refused_by_name(tmp_path, place):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match=rf"run\.dir {tmp_path / place} cannot be made: "):
        RunFolder(tmp_path / place).open("auto")


def test_the_start_writes_a_config_that_reads_back_equal_and_the_plan(tmp_path):
    config = tiny_config(tmp_path / "set", tmp_path / "run", {"optim.ssl.base_lr": 1e-5, "seed": 3})
    folder = RunFolder(tmp_path / "run")
    folder.open("auto")
    folder.write_start(config, {"steps": 7, "notes": ["α"]})
    assert read_config(["--config", str(folder.path / "config.yaml")]) == config
    assert json.loads((folder.path / "plan.json").read_text(encoding="utf-8")) == {"steps": 7, "notes": ["α"]}


def test_the_names_of_the_files(tmp_path):
    folder = RunFolder(tmp_path)
    assert [folder.checkpoints.name, folder.result.name, folder.reconstruction.name] == [
        "checkpoints", "result.json", "reconstruction.png",
    ]  # fmt: skip
