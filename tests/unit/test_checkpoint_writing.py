"""Writing beside the training: whole or absent, whatever kills the process, fills the disk or reads meanwhile."""

import concurrent.futures
import os
import resource
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from launching import environment
from states import OWN, PARTS, parts_of

from mixdist.engine.checkpoint import Checkpoints
from mixdist.engine.checkpoint import checkpoints as checkpoints_module
from mixdist.engine.checkpoint import write as write_module
from mixdist.engine.checkpoint.read import verify
from mixdist.engine.checkpoint.write import size_of
from mixdist.errors import UserError

BIG = {"model": {"weight": torch.ones(500_000)}, "progress": {}}  # 2 MB


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", OWN, keep=2)


def save(checkpoints, step, parts=PARTS):
    checkpoints.save(step, parts)
    checkpoints.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Killed


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(Path(__file__).with_name("killed_saves.py")), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(params=["3", "2"], ids=["a new step", "a step saved again"])
def killed(kills, request, tmp_path):
    """What a kill before each file operation of a save of this step left, in order."""
    folders = shutil.copytree(kills / request.param, tmp_path / "kills")
    return [folders / str(number) for number in range(len(names(folders)) - 1)]


def test_a_kill_at_any_file_operation_leaves_the_save_before_or_this_one_whole(killed):
    values = []
    for folder in killed:
        checkpoints = Checkpoints(folder, {}, keep=2, keep_best=True)
        values.append(parts_of(checkpoints.newest())["progress"]["value"])
        assert checkpoints.warnings == []
    renamed, amended = values.index(9), values.index(10)
    assert values == [2] * renamed + [9] * (amended - renamed) + [10] * (len(values) - amended)
    assert renamed > 10, "the kills came before any file was written"
    assert amended - renamed > 10, "the kills ended with the rename"
    assert len(values) > amended + 1, "the kills ended with what was found"


def test_after_a_kill_latest_and_best_name_whole_checkpoints_and_the_next_save_clears_up(killed):
    for folder in killed:
        for pointer in ("latest", "best"):
            verify(folder / (folder / pointer).read_text().strip())
        checkpoints = Checkpoints(folder, {}, keep=2, keep_best=True)
        newest = checkpoints.newest().name
        save(checkpoints, 4)
        best = (folder / "best").read_text().strip()
        assert set(names(folder)) == {"best", "latest", "step-000000004", newest, best}


def run_python(source, folder):
    return subprocess.run(
        [sys.executable, "-c", source, str(folder)],
        capture_output=True, text=True, timeout=120, env=environment(), check=False,
    )  # fmt: skip


def test_a_process_that_breaks_off_after_a_save_ends_by_itself_with_the_checkpoint_on_the_disk(tmp_path):
    source = (
        "import sys, torch; from pathlib import Path; from mixdist.engine.checkpoint import Checkpoints\n"
        "Checkpoints(Path(sys.argv[1]), {}, 2).save(7, {'model': {'w': torch.ones(3_000_000)}, 'progress': {}})\n"
        "raise SystemExit(5)"
    )
    done = run_python(source, tmp_path)
    assert (done.returncode, done.stderr) == (5, "")
    assert Checkpoints(tmp_path, {}, 2).newest().name == "step-000000007"


def test_what_killed_writers_left_goes_with_the_next_save(checkpoints):
    half = checkpoints.folder / "step-000000001.partial"
    half.mkdir(parents=True)
    (half / "state.pt").write_bytes(b"half")
    (checkpoints.folder / "latest.partial").write_text("step-0")
    (checkpoints.folder / "step-000000003.pt.partial").write_text("half")
    assert checkpoints.newest() is None
    save(checkpoints, 1)
    assert names(checkpoints.folder) == ["latest", "step-000000001"]


# Beside the training


@pytest.fixture
def gate(monkeypatch):
    """Writing waits until this event is set."""
    opened, own = threading.Event(), checkpoints_module.write

    def write(*arguments):
        assert opened.wait(60)
        own(*arguments)

    monkeypatch.setattr(checkpoints_module, "write", write)
    yield opened
    opened.set()


def test_save_returns_while_the_bytes_are_still_to_be_written(checkpoints, gate):
    checkpoints.save(1, PARTS)
    assert names(checkpoints.folder) == []
    gate.set()
    checkpoints.wait()
    assert names(checkpoints.folder) == ["latest", "step-000000001"]


def test_a_second_save_waits_for_the_first(checkpoints, gate, monkeypatch):
    checkpoints.save(1, PARTS)
    there = []
    own = checkpoints_module.to_host

    def to_host(*arguments):
        there.extend(names(checkpoints.folder))
        return own(*arguments)

    monkeypatch.setattr(checkpoints_module, "to_host", to_host)
    opener = threading.Timer(0.2, gate.set)
    opener.start()
    checkpoints.save(2, PARTS)
    opener.join()
    assert there == ["latest", "step-000000001"]
    checkpoints.wait()
    assert names(checkpoints.folder) == ["latest", "step-000000001", "step-000000002"]


def test_the_time_that_saves_and_waits_held_the_training_adds_up(checkpoints, gate):
    assert checkpoints.stall_s == 0
    checkpoints.save(1, PARTS)
    saved = checkpoints.stall_s
    assert saved > 0
    opener = threading.Timer(0.2, gate.set)
    opener.start()
    checkpoints.wait()
    assert checkpoints.stall_s >= saved + 0.1


@contextmanager
def broken_disk():
    """Let nothing be brought to the disk."""

    def fail(_):
        raise OSError(5, "disk failure")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        yield


def test_a_write_that_failed_is_told_once_as_soon_as_it_is_known_and_the_next_is_tried(checkpoints):
    with broken_disk():
        checkpoints.save(1, PARTS)
        checkpoints.amend(1, {}, 50.0)
        concurrent.futures.wait([checkpoints._writing])
    told = checkpoints.failure()
    assert "step-000000001 cannot be written" in told
    assert told.endswith("the run ends where that fails too)")
    assert checkpoints.failure() is None
    checkpoints.amend(1, {}, 50.0)  # of a checkpoint that is not there
    checkpoints.save(2, PARTS)
    assert names(checkpoints.folder) == ["latest", "step-000000002"], "it is waited for"
    checkpoints.save(3, PARTS)
    checkpoints.wait()
    assert checkpoints.failure() is None
    assert names(checkpoints.folder) == ["latest", "step-000000002", "step-000000003"]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("noticed_by", "step"), [("save", 3), ("wait", 2)])
def test_two_writes_that_fail_or_the_last_one_end_the_run(checkpoints, noticed_by, step, told):
    save(checkpoints, 1)
    with broken_disk():
        checkpoints.save(2, PARTS)
        concurrent.futures.wait([checkpoints._writing])
        assert not told or checkpoints.failure()
        with pytest.raises(UserError, match=rf"step-00000000{step} cannot be written \(.*disk failure.*\); make room"):
            checkpoints.save(3, PARTS) if noticed_by == "save" else checkpoints.wait()
    checkpoints.wait()
    assert names(checkpoints.folder) == ["latest", "step-000000001"]
    save(checkpoints, 3)
    assert names(checkpoints.folder) == ["latest", "step-000000001", "step-000000003"]


def test_one_who_looks_for_the_newest_while_others_are_saved_always_finds_a_whole_one(checkpoints):
    writer = Checkpoints(checkpoints.folder, OWN, keep=1)
    save(writer, 1)
    saving = threading.Thread(target=lambda: [save(writer, step) for step in range(2, 60)])
    saving.start()
    found = []
    while saving.is_alive():
        found.append(checkpoints.newest().name)
    saving.join()
    assert found == sorted(found)
    assert len(set(found)) > 5, "nothing was saved meanwhile"
    assert checkpoints.warnings == []


# Disks


def test_old_checkpoints_go_only_after_the_new_one_is_there(checkpoints, monkeypatch):
    for step in (1, 2):
        save(checkpoints, step)
    there = []
    own = write_module.verify
    monkeypatch.setattr(write_module, "verify", lambda path: there.extend(names(checkpoints.folder)) or own(path))
    save(checkpoints, 3)
    assert there == ["latest", "step-000000001", "step-000000002", "step-000000003"]
    assert names(checkpoints.folder) == ["latest", "step-000000002", "step-000000003"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root, as .ci/run has it")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_without_room_is_refused_before_a_byte_is_written(small_disk):
    checkpoints = Checkpoints(small_disk / "checkpoints", OWN, keep=2)
    save(checkpoints, 1, BIG)
    before = names(checkpoints.folder)
    with pytest.raises(
        UserError, match=r"checkpoints: a checkpoint needs 8\.1 MB, [34]\.\d MB are free; make room, then the"
    ):
        checkpoints.save(2, {**BIG, "moments": {"a": {"exp_avg": torch.ones(1_250_000)}}})
    checkpoints.wait()
    assert names(checkpoints.folder) == before
    verify(checkpoints.newest())


def test_a_disk_that_fills_up_meanwhile_leaves_the_checkpoints_before_and_nothing_half_written(small_disk, monkeypatch):
    checkpoints = Checkpoints(small_disk / "checkpoints", OWN, keep=2)
    save(checkpoints, 1, BIG)
    monkeypatch.setattr(checkpoints_module, "check_room", lambda *_: None)  # others took the room after it was checked
    for parts in ({**BIG, "moments": {"a": torch.ones(1_250_000)}}, {"model": {"weight": torch.ones(1_250_000)}}):
        checkpoints.save(2, parts)
        with pytest.raises(UserError, match=r"step-000000002 cannot be written \(.*\); make room") as caught:
            checkpoints.wait()
        assert "\n" not in str(caught.value)
        assert names(checkpoints.folder) == ["latest", "step-000000001"]
    verify(checkpoints.newest())
    save(checkpoints, 2, PARTS)
    assert names(checkpoints.folder) == ["latest", "step-000000001", "step-000000002"]


def test_a_file_system_that_takes_no_more_is_named_with_the_way_out(checkpoints):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # writes past it fail as they do on a full disk
    try:
        checkpoints.save(1, PARTS)
        with pytest.raises(UserError, match=r"step-000000001 cannot be written .*make room") as caught:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert names(checkpoints.folder) == []


def test_a_folder_that_cannot_be_made_is_a_fault_of_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match=r"checkpoints cannot be written \(.*exists"):
        Checkpoints(tmp_path / "checkpoints", OWN, keep=2).save(1, PARTS)


def test_a_disk_that_gives_back_other_bytes_than_it_took_is_noticed_at_once(checkpoints, monkeypatch):
    save(checkpoints, 1)
    own = write_module.flush

    def flush(path):
        own(path)
        if path.name == "state.pt":
            content = path.read_bytes()
            path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])

    monkeypatch.setattr(write_module, "flush", flush)
    checkpoints.save(2, PARTS)
    with pytest.raises(UserError, match=r"step-000000002 was written, but read back differently: state\.pt has other"):
        checkpoints.wait()
    assert names(checkpoints.folder) == ["latest", "step-000000001"]
    assert (checkpoints.folder / "latest").read_text() == "step-000000001\n"


@pytest.mark.parametrize("parts", [PARTS, BIG, {"model": {f"{n:0200d}": torch.ones(()) for n in range(3000)}}])
def test_the_room_that_is_asked_for_covers_what_is_written(checkpoints, parts):
    save(checkpoints, 1, parts)
    written = sum(file.stat().st_size for file in checkpoints.newest().iterdir())
    assert written <= size_of(parts)
