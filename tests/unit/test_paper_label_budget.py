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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--share", "0.01"], "data.labelled_fraction 0.01 leaves class"),
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
