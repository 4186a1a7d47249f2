"""A killed run goes on exactly where its checkpoint ends, and a checkpoint that is not of this run is refused."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import QUIET, TINY_VIT, checkpoints, records, result, run, run_until, train, train_here

from mixdist.engine.checkpoint import write as write_module
from mixdist.engine.checkpoint.read import read_parts, verify
from mixdist.runfolder import RunFolder

SETTINGS = {
    **QUIET,
    **TINY_VIT,
    "method.ssl_epochs": 3,
    "method.sl_epochs": 3,
    "method.mix_ratio": 0.67,  # SSL 1, MIX 2, SL 1
    "optim.ssl.base_lr": 1e-2,
    "optim.sl.base_lr": 1e-2,
    "train.batch": 16,
}
STEPS = math.ceil(1438 / 16)  # of an epoch of the digits; it lasts most of a second, long enough to be killed in
BORDER, MIDDLE, END = STEPS, 2 * STEPS, 4 * STEPS  # of SSL and MIX; of MIX; of the run
MEASURED = {
    "images_per_s",
    "data_wait",
    "data_bound",
    "decode",
    "host_to_device",
    "memory_mb",
    "latency_s",
}  # the fields of a record that may differ


@pytest.fixture(
    scope="module", params=[pytest.param(1, id="1-rank"), pytest.param(2, id="2-ranks", marks=pytest.mark.minutes)]
)
def twice(request: pytest.FixtureRequest, packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same run "straight", and "killed" in the epoch after BORDER and again in that after MIDDLE."""
    folder = tmp_path_factory.mktemp("resume")
    command = train(request.param, {**SETTINGS, "data.sl": packed_sets / "digits", "run.dir": "killed"})
    for step in (BORDER, MIDDLE):
        run_until(command, folder, lambda step=step: goes_on_after(folder / "killed", step))
        assert checkpoints(folder / "killed")[-1].name == f"step-{step:09d}"
        assert not (folder / "killed" / "result.json").exists()
    for name in ("killed", "straight"):
        done = run([*command, "--run.dir", name], folder)
        assert done.code == 0, done.err
    if request.param > 1:  # for one process, test_a_finished_run_says_so_and_changes_nothing
        again = run(command, folder)
        assert (again.code, again.out.count("killed is finished")) == (0, 1), again.err
        shutil.copytree(folder / "killed", folder / "torn")  # rank 0 alone looks, and all ranks refuse
        for path in checkpoints(folder / "torn"):
            cut_off(path / "state.pt")
        refused = run([*command, "--run.dir", "torn"], folder)
        assert 2 in refused.exit_codes
        assert (len(refused.errors), refused.own_tracebacks) == (1, []), refused.err
        assert "no checkpoint of torn/checkpoints is whole" in refused.errors[0]
    return folder


def goes_on_after(folder: Path, step: int) -> bool:
    """Whether the run has saved ``step`` and written a record of a later one."""
    saved = (folder / "checkpoints" / f"step-{step:09d}").exists()
    return saved and any(record["step"] > step for record in records(folder))


@pytest.mark.distributed
@pytest.mark.slow
def test_a_run_killed_at_a_border_and_within_a_phase_ends_with_the_same_weights_bit_for_bit(twice: Path) -> None:
    killed, straight = (load(twice / name) for name in ("killed", "straight"))
    for part in ("model", "moments", "scaler"):
        equal(killed[part], straight[part], part)
    assert killed["progress"]["step"] == straight["progress"]["step"] == END


@pytest.mark.distributed
@pytest.mark.slow
def test_each_step_stands_once_in_its_metrics_with_the_same_numbers(twice: Path) -> None:
    killed, straight = (
        [{key: value for key, value in record.items() if key not in MEASURED} for record in records(twice / name)]
        for name in ("killed", "straight")
    )
    assert [record["step"] for record in killed] == list(range(1, END + 1))
    assert killed == straight


@pytest.mark.distributed
@pytest.mark.slow
def test_its_result_counts_every_image_once(twice: Path) -> None:
    killed, straight = (result(twice / name) for name in ("killed", "straight"))
    for field in ("accuracy", "top5", "samples", "world_size", "seed"):
        assert killed[field] == straight[field]
    for name, phase in straight["phases"].items():
        assert {key: killed["phases"][name][key] for key in ("epochs", "steps", "images")} == {
            key: phase[key] for key in ("epochs", "steps", "images")
        }


@pytest.fixture(scope="module")
def finished(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a run that is finished."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    epochs = {"method.ssl_epochs": 1, "method.sl_epochs": 1}
    settings = {**SETTINGS, **epochs, "data.sl": packed_sets / "tiny", "run.dir": folder}
    assert train_here(settings) == 0
    return settings


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_says_so_and_changes_nothing(finished: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    before = contents(finished["run.dir"])
    assert train_here(finished) == 0
    assert f"{finished['run.dir']} is finished" in capsys.readouterr().out
    assert contents(finished["run.dir"]) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model.decoder_dim": 16}, "model.decoder_dim was None, now 16"),
        ({"method.sl_epochs": 2}, "method.sl_epochs was 1, now 2"),
        ({"seed": 7}, "seed was 0, now 7"),
        ({"data.sl": "digits"}, "data.sl was "),
    ],
)
def test_a_checkpoint_of_another_model_plan_or_set_is_refused_by_the_name_of_the_setting(
    finished: dict[str, Any], packed_sets: Path, capsys: pytest.CaptureFixture, change: dict[str, Any], named: str
) -> None:
    if "data.sl" in change:
        change = {"data.sl": packed_sets / change["data.sl"]}
    before = contents(finished["run.dir"])
    assert train_here({**finished, **change}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "belongs to another run" in line
    assert named in line
    assert contents(finished["run.dir"]) == before


def cut_off(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_torn_checkpoint_is_passed_over_for_the_one_before_and_the_run_ends_with_the_same_weights(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = copied(finished, tmp_path)
    newest = checkpoints(own["run.dir"])[-1]
    cut_off(newest / "state.pt")
    assert train_here(own) == 0
    shown = capsys.readouterr().out
    assert f"{newest} passed over: state.pt has " in " ".join(shown.split())
    for part in ("model", "moments"):
        equal(load(own["run.dir"])[part], load(finished["run.dir"])[part], part)
    assert checkpoints(own["run.dir"])[-1] == newest


def test_where_no_checkpoint_is_whole_the_run_is_refused_with_all_of_them(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = copied(finished, tmp_path)
    for path in checkpoints(own["run.dir"]):
        cut_off(path / "model.safetensors")
    assert train_here(own) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no checkpoint of {own['run.dir']}/checkpoints is whole (" in line
    assert all(f"{path.name}: model.safetensors has " in line for path in checkpoints(own["run.dir"]))


def test_a_checkpoint_of_the_format_before_is_refused_and_fresh_removes_it(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = {**finished, "run.dir": tmp_path / "run"}
    old = tmp_path / "run" / "checkpoints" / "step-000000007.pt"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"earlier")
    for more in ((), ("--resume",)):
        assert train_here(own, *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{old} is of an earlier mixdist" in line
        assert "--run.resume fresh" in line
    assert train_here(own, "--run.resume", "fresh") == 0
    assert not old.exists()


def test_the_best_checkpoint_stays_where_that_is_asked_for(finished: dict[str, Any], tmp_path: Path) -> None:
    epochs = {"method.arm": "sl", "method.sl_epochs": 4, "run.keep_checkpoints": 1, "run.keep_best": True}
    own = {**finished, **epochs, "run.dir": tmp_path / "run"}
    assert train_here(own) == 0
    scores = {each["step"]: each["accuracy"] for each in records(own["run.dir"]) if each["accuracy"] is not None}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert (tmp_path / "run" / "checkpoints" / "best").read_text() == f"step-{best:09d}\n"
    assert {path.name for path in checkpoints(own["run.dir"])} == {f"step-{step:09d}" for step in (best, max(scores))}


def test_a_checkpoint_that_could_not_be_written_is_told_and_the_run_goes_on_where_the_next_can(
    finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    own_write, tried = write_module.write, []

    def write(path: Path, *others: Any) -> None:
        tried.append(path.name)
        if len(tried) == 1:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        own_write(path, *others)

    monkeypatch.setattr("mixdist.engine.checkpoint.checkpoints.write", write)
    own = {**finished, "method.arm": "sl", "method.sl_epochs": 2, "run.dir": tmp_path / "run"}
    assert train_here(own) == 0
    assert "Disk quota exceeded); make room" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in checkpoints(own["run.dir"])] == tried[1:]


def test_a_folder_in_which_another_job_trains_is_refused_and_left_as_it_is(
    finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("mixdist.runfolder.PATIENCE_S", 0.0)
    with RunFolder(finished["run.dir"]).held():
        before = contents(finished["run.dir"])
        assert train_here(finished, "--run.resume", "fresh") == 2
        assert contents(finished["run.dir"]) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert f"run.dir {finished['run.dir']} is in use by process {os.getpid()} on " in line


def copied(settings: dict[str, Any], place: Path) -> dict[str, Any]:
    """Return the settings of a copy of a finished run."""
    shutil.copytree(settings["run.dir"], place / "run")
    return {**settings, "run.dir": place / "run"}


def test_fresh_starts_over_with_the_settings_of_now(finished: dict[str, Any], tmp_path: Path) -> None:
    own = {**finished, "run.dir": tmp_path / "run"}
    assert train_here(own) == 0
    assert train_here({**own, "seed": 7}, "--run.resume", "fresh") == 0
    first, second = ([record["loss"] for record in records(each)] for each in (finished["run.dir"], own["run.dir"]))
    assert len(first) == len(second)
    assert first != second
    assert result(own["run.dir"])["seed"] == 7


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_fresh_removes_nothing_where_a_launcher_starts_the_run_again(
    finished: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    variable: str,
) -> None:
    own = copied(finished, tmp_path)
    (own["run.dir"] / "result.json").unlink()  # killed just before its end
    before = [path.name for path in checkpoints(own["run.dir"])]
    monkeypatch.setenv(variable, "1")
    assert train_here(own, "--run.resume", "fresh") == 0
    assert "--run.resume fresh, which was for the first start, removes nothing" in capsys.readouterr().out
    assert [path.name for path in checkpoints(own["run.dir"])] == before


def test_resume_with_nothing_to_go_on_from_is_refused_and_starts_nothing(
    packed_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "none"
    assert train_here({**SETTINGS, "data.sl": packed_sets / "tiny", "run.dir": folder}, "--resume") == 2
    assert capsys.readouterr().err == (
        f"mixdist: error: --resume: {folder}/checkpoints holds no checkpoint; leave --resume out to start the run\n"
    )
    assert not any(folder.iterdir())


def load(folder: Path) -> dict[str, Any]:
    newest = checkpoints(folder)[-1]
    return read_parts(newest, verify(newest))


def equal(left: Any, right: Any, place: str) -> None:
    """Compare nested dictionaries, tensors bit for bit."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for key in left:
            equal(left[key], right[key], f"{place}.{key}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), place
    else:
        assert left == right, place
