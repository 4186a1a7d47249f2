"""A label budget: nested, seeded shares for every arm, SSL on all images, and the curve; runs are made up."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_runs import write_run
from hypothesis import given
from hypothesis import strategies as st

from mixdist.cli import main
from mixdist.config.schema import Config
from mixdist.data.samples import find_samples
from mixdist.paper.jobs import Job
from mixdist.paper.runner import Runner

ARMS = ("sl", "ssl+sl", "mixtraining")
SHARES = st.sampled_from((0.2, 0.25, 0.5, 0.75, 1.0))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that were trained, by a stand-in whose accuracy grows with the labels."""
    jobs: list[Job] = []

    def train(_self: Runner, job: Job) -> None:
        jobs.append(job)
        data = job.config.data
        made = write_run(
            job.folder.with_name("made"), job.config.method.arm, job.config.seed, 40 + 30 * data.labelled_fraction
        )
        shutil.move(made, job.folder)
        result = json.loads((job.folder / "result.json").read_text())
        found = find_samples(job.config)
        (job.folder / "result.json").write_text(json.dumps({**result, "labelled": len(found.sl_ids)}))
        job.write_cell()

    monkeypatch.setattr(Runner, "_train", train)
    return jobs


@given(first=SHARES, second=SHARES, seed=st.integers(0, 100))
def test_the_labels_of_a_share_are_among_those_of_a_larger_one_and_ssl_sees_all(
    sets: Path, first: float, second: float, seed: int
) -> None:
    def samples(share: float) -> tuple[set[int], set[int]]:
        data = {"sl": str(sets / "whole"), "labelled_fraction": share, "subset_seed": seed}
        found = find_samples(Config.model_validate({"data": {**data, "image_size": 6}}))
        return set(found.sl_ids.tolist()), set(found.ssl_ids.tolist())

    (few, all_images), (many, again) = sorted((samples(first), samples(second)), key=lambda drawn: len(drawn[0]))
    assert few <= many
    assert all_images == again == set(range(37))


def test_seeds_draw_other_labels(sets: Path) -> None:
    draws = [
        find_samples(
            Config.model_validate({"data": {"sl": str(sets / "whole"), "labelled_fraction": 0.5, "subset_seed": seed}})
        ).sl_ids
        for seed in (0, 1)
    ]
    assert len(draws[0]) == len(draws[1])
    assert not np.array_equal(*draws)


def test_every_arm_is_trained_on_every_share_and_the_curve_is_written(
    sets: Path, tmp_path: Path, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path), "--seeds", "0", "1", "--share", "0.25", "1"]
    command = ["label-budget", str(sets / "whole"), *out, "--", "--train.batch", "64", "--tracking.wandb", "disabled"]
    assert main(command) == 0
    assert [(job.config.data.labelled_fraction, job.config.method.arm, job.config.seed) for job in trained] == [
        (share, arm, seed) for seed in (0, 1) for share in (0.25, 1.0) for arm in ARMS
    ]
    assert all(job.config.data.subset_seed == job.config.seed for job in trained)
    assert all(job.config.train.batch == 64 for job in trained)
    assert {job.config.input_ratio for job in trained} == {1.0}  # one rule for MIX at every share

    place = tmp_path / "label-budget-whole"
    found = list(csv.DictReader((place / "results.csv").open()))
    assert len(found) == 12
    # Of classes of 21, 12 and 4: a quarter of each, rounded.
    assert [(line["share"], line["labelled"], line["arm"], line["seed"]) for line in found[:3]] == [
        ("0.25", "9", "sl", "0"),
        ("0.25", "9", "sl", "1"),
        ("0.25", "9", "ssl+sl", "0"),
    ]
    assert {line["changes"] for line in found} == {"--train.batch 64"}
    assert "| 25 % | 9 | mixtraining | 2 | 47.50 ± 0.00 |" in (place / "report.md").read_text()
    assert ElementTree.parse(place / "label-budget.svg").getroot().tag.endswith("svg")
    assert "SSL sees all images with --train.batch 64" in capsys.readouterr().out

    assert main(command) == 0
    assert len(trained) == 12


def test_files_of_other_settings_are_told_apart(
    sets: Path, tmp_path: Path, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("method: {ssl_epochs: 4, sl_epochs: 2}\nmodel: {options: {depth: 2}}\n")
    (tmp_path / "b.yaml").write_text("method: {ssl_epochs: 4, sl_epochs: 3}\nmodel: {options: {depth: 2}}\n")
    (tmp_path / "c.yaml").write_text("method: {ssl_epochs: 4, sl_epochs: 2}\ntrain: {compile: true}\n")
    own = ["label-budget", str(sets / "whole"), "--out", str(tmp_path), "--share", "1", "--arm", "ssl+sl"]
    assert main([*own, "--seeds", "0", "--config", str(tmp_path / "a.yaml")]) == 0
    place = tmp_path / "label-budget-whole"
    (line,) = csv.DictReader((place / "results.csv").open())
    changes = '--method.ssl_epochs 4 --method.sl_epochs 2 --model.options {"depth": 2}'
    assert (line["changes"], line["layout"]) == (changes, "")
    headline = f"backbone vit_tiny_patch16_224, epochs 4 + 2; SSL sees all images with {changes}"
    assert headline in capsys.readouterr().out
    assert main([*own, "sl", "--seeds", "0", "--config", str(tmp_path / "a.yaml")]) == 0
    assert f"({headline})" in capsys.readouterr().out  # of both arms: sl has no epochs of SSL to tell
    trained.clear()

    assert main([*own, "--seeds", "1", "--config", str(tmp_path / "b.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "100pct-sl-seed0 holds a run of other settings (method.sl_epochs was 2, now 3)" in line
    settings = ["--", "--train.compile", "true", "--model.options", "{depth: 2}"]
    assert main([*own, "--seeds", "1", "--config", str(tmp_path / "c.yaml"), *settings]) == 0
    assert len(trained) == 1
    lines = csv.DictReader((place / "results.csv").open())
    assert [line["layout"] for line in lines if line["arm"] == "ssl+sl"] == ["", "--train.compile true"]


def test_tasks_of_other_content_are_told_apart(
    sets: Path, tmp_path: Path, trained: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["label-budget", str(sets / "whole"), "--out", str(tmp_path), "--share", "1", "--arm", "sl", "--seeds"]
    assert main([*own, "0", "--", "--data.tasks", f"{{more: {{path: {sets / 'whole'}}}}}"]) == 0
    assert main([*own, "1", "--", "--data.tasks", f"{{more: {{path: {sets / 'partly'}}}}}"]) == 2
    assert "holds a run of other settings (data.tasks.more was" in capsys.readouterr().err
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--share", "0.01"],
            "without a label: of 'cedar' there are 4; give shares of at least 0.13, as --share 0.25 0.5 1",
        ),
        (["--share", "0.05", "--", "--data.stratified", "no"], "there are 4; give larger shares, as --share 0.1 0.25"),
        (["--share", "1", "--", "--data.ssl_only_unlabelled", "yes"], "leaves no sample"),
        (["--share", "1.5"], "--share 1.5 is out of range"),
        (["--share", "1", "1.0"], "--share 1.0 1.0 names one twice"),
        (["--seeds", "-1"], "--seeds -1 is out of range"),
        (["--arm", "ssl"], "invalid choice: 'ssl'"),
        (["--", "--data.subset_seed", "4"], "after --, --data.subset_seed cannot be given: the curve decides it"),
        (["--part", "3/2"], "--part 3/2 should be K/N with K from 1 to N"),
        (["--nproc", "0"], "--nproc 0 is out of range"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    sets: Path,
    tmp_path: Path,
    trained: list[Job],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main(["label-budget", str(sets / "whole"), "--out", str(tmp_path / "runs"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert trained == []
    assert not (tmp_path / "runs").exists()


def test_a_set_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label-budget", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist; make one with: mixdist pack" in capsys.readouterr().err
