"""The runner of a grid: each run once, failures marked, signals handed on; the training is a stand-in."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.locks import locked
from mixdist.paper import jobs as jobs_module
from mixdist.paper import runner as module
from mixdist.paper.closing import exit_code
from mixdist.paper.jobs import Job, finished_runs, read_cell, result_folder
from mixdist.paper.place import check_place, take_place
from mixdist.paper.runner import Runner, State

# What a training does to its folder; the last argument is what happens to it.
STAND_IN = """
import json, os, pathlib, signal, sys
folder, fate = pathlib.Path(sys.argv[1]), sys.argv[2]
with (folder / "starts").open("a") as file:
    file.write("x")
if fate == "fails":
    print("warming up"); print("mixdist: error: no room on the disk", file=sys.stderr); sys.exit(2)
if fate == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if fate == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
(folder / "result.json").write_text(json.dumps({"accuracy": 50.0, "latency_s": 1.0}))
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "command", lambda flags, _nproc: [sys.executable, "-c", STAND_IN, *flags])


def job(place: Path, name: str, fate: str = "trains", batch: int = 256) -> Job:
    folder = place / name
    identity = {"train.batch": str(batch), "name": name}
    config = Config.model_validate({"data": {"sl": "set"}})
    changes = {} if batch == 256 else {"train.batch": str(batch)}
    return Job(name, folder, (str(folder), fate), config, identity, {"cell": {"sl_dataset": name}, "changes": changes})


def runner(jobs: list[Job], out: Path, said: list[str] | None = None) -> Runner:
    for each in jobs:
        take_place(each.folder.parent, [each])
    return Runner(jobs, 1, out, ([] if said is None else said).append)


def starts(each: Job) -> int:
    path = each.folder / "starts"
    return len(path.read_text()) if path.exists() else 0


def test_every_job_runs_once_and_none_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path / "grid", name) for name in "abc"]
    for _ in range(2):
        assert set(runner(jobs, tmp_path).run().values()) == {"finished"}
    assert [starts(each) for each in jobs] == [1, 1, 1]
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("fate", "reason"), [("fails", "no room on the disk"), ("dies", "exit code -9: it wrote nothing")]
)
def test_a_failure_is_marked_with_its_reason_and_the_others_go_on(tmp_path: Path, fate: str, reason: str) -> None:
    jobs = [job(tmp_path / "grid", "a", fate), job(tmp_path / "grid", "b")]
    said: list[str] = []
    states = runner(jobs, tmp_path, said).run()
    assert [states[each.folder] for each in jobs] == ["failed", "finished"]
    assert json.loads((jobs[0].folder / "failed.json").read_text())["reason"] == reason
    assert f"[1/2] a: failed: {reason}" in said


def test_a_failed_run_is_tried_again_by_the_next_command(tmp_path: Path) -> None:
    broken, mended = job(tmp_path / "grid", "a", "fails"), job(tmp_path / "grid", "a")
    runner([broken], tmp_path).run()
    assert runner([mended], tmp_path).run() == {mended.folder: "finished"}
    assert starts(mended) == 2
    assert not (mended.folder / "failed.json").exists()


def test_what_another_process_has_in_hand_is_left_to_it(tmp_path: Path) -> None:
    jobs = [job(tmp_path / "grid", "a"), job(tmp_path / "grid", "b")]
    ours = runner(jobs, tmp_path)
    with locked(jobs[0].lock):
        states = ours.run()
    assert [states[each.folder] for each in jobs] == ["taken", "finished"]
    assert starts(jobs[0]) == 0


def test_a_run_that_still_trains_after_its_grid_was_killed_is_left_alone(tmp_path: Path) -> None:
    each = job(tmp_path / "grid", "a")
    each.write_cell()
    with locked(each.folder / "lock"):  # what mixdist train holds
        assert runner([each], tmp_path).run() == {each.folder: "taken"}


def test_what_fails_in_another_process_meanwhile_is_not_tried_a_second_time(tmp_path: Path) -> None:
    first, second = job(tmp_path / "grid", "a"), job(tmp_path / "grid", "b", "fails")
    beside = runner([second], tmp_path)

    def say(line: str) -> None:
        if line.endswith("1 s of training"):  # ours has trained a: now the other process comes to b first
            beside.run()

    states = Runner([first, second], 1, tmp_path, say).run()
    assert states == {first.folder: "finished", second.folder: "failed"}
    assert starts(second) == 1


def test_a_finished_run_of_another_grid_is_taken_for_this_one(tmp_path: Path) -> None:
    first, same = job(tmp_path / "table1", "a"), job(tmp_path / "table7", "a")
    runner([first], tmp_path).run()
    assert finished_runs(tmp_path) == {first.hash: first.folder}
    assert runner([same], tmp_path).run() == {same.folder: "finished"}
    assert starts(same) == 0
    found = result_folder(same.folder)
    assert found is not None
    assert found.resolve() == first.folder.resolve()


def test_a_signal_is_handed_on_and_ends_the_grid(tmp_path: Path) -> None:
    jobs = [job(tmp_path / "grid", "a", "waits"), job(tmp_path / "grid", "b")]
    before = signal.getsignal(signal.SIGTERM)
    ours = runner(jobs, tmp_path)
    states = ours.run()
    assert ours.stopped_by == signal.SIGTERM
    assert [states[each.folder] for each in jobs] == ["open", "open"]
    assert starts(jobs[1]) == 0
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("states", "stopped_by", "code", "said"),
    [
        (["finished", "finished"], 0, 0, None),
        (["finished", "taken"], 0, 0, "1 of 2 runs are in the hands of another process"),
        (["failed", "taken"], 0, 1, "1 of 2 runs failed; the same command tries them again"),
        (["finished", "open"], signal.SIGUSR1, 75, "stopped by a signal; the same command goes on where it stands"),
        (["finished", "open"], signal.SIGINT, 130, "stopped by a signal"),
    ],
)
def test_the_exit_code_says_what_is_left(
    tmp_path: Path, states: list[State], stopped_by: int, code: int, said: str | None
) -> None:
    ended = Runner([], 1, tmp_path, print, stopped_by=stopped_by)
    lines: list[str] = []
    assert exit_code(ended, {tmp_path / str(row): state for row, state in enumerate(states)}, lines.append) == code
    assert lines == [] if said is None else any(said in line for line in lines)


def test_a_damaged_result_is_none_and_the_run_goes_on(tmp_path: Path) -> None:
    each = job(tmp_path / "grid", "a")
    runner([each], tmp_path).run()
    (each.folder / "result.json").write_text('{"accuracy": 5')
    assert not each.finished
    assert finished_runs(tmp_path) == {}
    assert runner([each], tmp_path).run() == {each.folder: "finished"}
    assert starts(each) == 2
    assert json.loads((each.folder / "result.json").read_text())["accuracy"] == 50.0


@pytest.mark.parametrize("fate", ["fails", "dies"])
def test_a_damaged_result_is_not_left_to_the_training(tmp_path: Path, fate: str) -> None:
    each = job(tmp_path / "grid", "a", fate)
    each.write_cell()
    (each.folder / "result.json").write_text("{")
    assert runner([each], tmp_path).run() == {each.folder: "failed"}
    assert not (each.folder / "result.json").exists()


def test_a_failed_try_of_other_settings_is_written_over(tmp_path: Path) -> None:
    wrong, mended = job(tmp_path / "grid", "a", "fails", batch=64), job(tmp_path / "grid", "a")
    runner([wrong], tmp_path).run()
    assert runner([mended], tmp_path).run() == {mended.folder: "finished"}
    cell = read_cell(mended.folder)
    assert cell is not None
    assert cell["hash"] == mended.hash


def test_a_place_with_other_settings_or_foreign_files_is_refused(tmp_path: Path) -> None:
    runner([job(tmp_path / "grid", "a")], tmp_path).run()
    with pytest.raises(UserError, match=r"other settings \(train.batch was 256, now 64\); give another --out"):
        check_place(tmp_path / "grid", [job(tmp_path / "grid", "a", batch=64)])
    foreign = tmp_path / "grid" / "b"
    foreign.mkdir()
    check_place(tmp_path / "grid", [job(tmp_path / "grid", "b")])
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files and no cell\.json"):
        check_place(tmp_path / "grid", [job(tmp_path / "grid", "b")])


def test_a_place_in_which_another_process_begins_the_run_is_not_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = job(tmp_path / "grid", "a")
    own.folder.mkdir(parents=True)
    (own.folder / "cell.json.partial").write_text("{")
    check_place(tmp_path / "grid", [own])
    reads = iter([None, {"hash": own.hash}])  # it takes its name between two looks
    (own.folder / "cell.json.partial").rename(own.folder / "cell.json")
    monkeypatch.setattr("mixdist.paper.place.read_cell", lambda _: next(reads))
    check_place(tmp_path / "grid", [own])
    assert list(reads) == []


def test_a_place_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "grid").write_text("a file")
    with pytest.raises(UserError, match=r"--out: .*table1 cannot be made"):
        take_place(tmp_path / "grid" / "table1", [])


def test_a_full_disk_is_one_line_and_leaves_no_half_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _value: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    each = job(tmp_path / "grid", "a")
    ours = runner([each], tmp_path)
    monkeypatch.setattr(jobs_module, "write_json", full)
    with pytest.raises(UserError, match=r"cell\.json cannot be written \(No space left on device\); make room"):
        ours.run()
    assert not each.lock.exists()


def test_a_damaged_cell_file_is_no_cell(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"format": "mixdist-cell", "version": 2}', "\0"):
        (tmp_path / "cell.json").write_text(text)
        assert read_cell(tmp_path) is None


def test_the_user_s_threads_are_kept_and_else_the_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert module._environment(2)["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert module._environment(os.cpu_count() or 1)["OMP_NUM_THREADS"] == "1"
