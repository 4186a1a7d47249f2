"""Run folders are found, read, and left out with a reason."""

import json
import os
from pathlib import Path

import pytest
from fake_runs import STEPS_AN_EPOCH, three_arms, write_run

from mixdist.errors import UserError
from mixdist.report.collect import collect
from mixdist.report.run import read_run


def folders(*paths: Path | str) -> list[str]:
    return [run.folder.name for run in collect([str(path) for path in paths]).runs]


def test_run_folders_are_found_three_levels_below_a_folder_and_no_deeper(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "x" / "y" / "b")
    write_run(tmp_path / "x" / "y" / "z" / "too-deep")
    assert folders(tmp_path) == ["a", "b"]


def test_a_pattern_that_the_shell_left_alone_is_expanded(tmp_path: Path) -> None:
    three_arms(tmp_path, seeds=2)
    (tmp_path / "sl-notes.txt").write_text("no run")
    assert folders(tmp_path / "sl-*") == ["sl-0", "sl-1"]


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path: Path) -> None:
    assert folders(write_run(tmp_path / "run[1]")) == ["run[1]"]


def test_overlapping_paths_count_a_run_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    assert folders(run, tmp_path, f"{tmp_path}/*", os.path.relpath(run)) == ["a"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "absent does not exist"),
        ("empty", "empty is no run folder and holds none"),
        ("none-*", r"none-\* matches no run folder"),
        ("good/result.json", r"result.json is a file, not a run folder; give the folder: .*good"),
    ],
)
def test_a_path_without_runs_is_named(tmp_path: Path, name: str, message: str) -> None:
    write_run(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        collect([str(tmp_path / "good"), str(tmp_path / name)])


def damage(folder: Path, **fields: object) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_runs_that_cannot_be_compared_are_left_out_with_the_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    (write_run(tmp_path / "killed") / "result.json").unlink()
    damage(write_run(tmp_path / "newer"), version=2)
    damage(write_run(tmp_path / "other"), format="something-else")
    damage(write_run(tmp_path / "wrong"), accuracy="high")
    damage(write_run(tmp_path / "ssl"), accuracy=None)
    damage(write_run(tmp_path / "arm"), arm="rotation")
    (write_run(tmp_path / "text") / "result.json").write_text("{")
    (write_run(tmp_path / "bare") / "config.yaml").unlink()
    (write_run(tmp_path / "list") / "config.yaml").write_text("- 1")
    found = collect([str(tmp_path)])
    reasons = {entry.folder.name: entry.reason for entry in found.left_out}
    assert [run.folder.name for run in found.runs] == ["good"]
    assert reasons.pop("killed").startswith("unfinished: no result.json")
    assert reasons.pop("newer") == "result.json has format version 2, this mixdist reads 1"
    assert "not that of a mixdist run" in reasons.pop("other")
    assert reasons.pop("wrong").startswith("result.json: accuracy: input should be a valid number")
    assert reasons.pop("ssl") == "result.json has no accuracy: the run had no supervised epoch"
    assert "arm: input should be 'sl', 'ssl+sl' or 'mixtraining'" in reasons.pop("arm")
    assert "not JSON" in reasons.pop("text")
    assert reasons.pop("bare") == "no config.yaml"
    assert "config.yaml should hold sections" in reasons.pop("list")
    assert not reasons


def test_no_finished_run_at_all_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    (write_run(tmp_path / "killed") / "result.json").unlink()
    with pytest.raises(UserError, match=r"no finished run to compare \(.*killed: unfinished"):
        collect([str(tmp_path)])


def test_metrics_are_read_up_to_a_truncated_last_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    metrics = folder / "metrics.jsonl"
    whole = read_run(folder).records
    metrics.write_bytes(metrics.read_bytes()[:-25])
    assert read_run(folder).records == whole[:-1]


def test_a_damaged_line_in_the_middle_of_the_metrics_is_a_reason(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], '{"step": 4}', *lines[2:]]))
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: phase: field required"):
        read_run(folder)


def test_steps_that_a_resumed_run_did_again_count_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:STEPS_AN_EPOCH] + lines[STEPS_AN_EPOCH - 4 :]))
    steps = [record.step for record in read_run(folder).records]
    assert steps == sorted(set(steps))
    assert len(steps) == len(lines)
