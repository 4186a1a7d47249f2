"""Two labelled sets at once by the real command: the same on any number of ranks, taken up where it was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from launching import QUIET, TINY_VIT, checkpoints, records, result, run, run_until, train, train_here

from mixdist.engine.checkpoint.manifest import read_manifest
from mixdist.engine.checkpoint.read import read_parts
from mixdist.serving.finished_run import read_run

pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]

SAME = ("step", "samples", "loss", "loss_ssl", "loss_sl", "grad_norm", "accuracy")
# 49 images of D_sl and 73 digits an epoch in batches of 16: an epoch ends with a batch of 10. MIX pairs images (Eq. 2).
SETTINGS = {
    **QUIET,
    **TINY_VIT,
    "method.ssl_epochs": 3,
    "method.sl_epochs": 4,
    "method.mix_ratio": 0.67,
    "optim.ssl.base_lr": 1e-2,
    "optim.sl.base_lr": 1e-2,
    "train.batch": 16,
    "train.eval_batch": 100,
}
SPREAD: dict[str, tuple[int, dict[str, Any]]] = {"2-ranks-accumulated": (2, {"train.micro_batch": 3})}


def settings_of(packed_sets: Path) -> dict[str, Any]:
    tasks = f"{{digits: {{path: {packed_sets / 'digits'}, rate: 1.5}}}}"
    return {**SETTINGS, "data.sl": packed_sets / "tiny", "data.ssl": packed_sets / "flat", "data.tasks": tasks}


@pytest.fixture(scope="module")
def runs(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders: of one process, of two, and of one that was killed after its first checkpoint and taken up."""
    folder = tmp_path_factory.mktemp("multi-task")
    settings = settings_of(packed_sets)
    assert train_here({**settings, "run.dir": folder / "alone"}) == 0
    for name, (ranks, more) in SPREAD.items():
        done = run(train(ranks, {**settings, **more, "run.dir": name}), folder)
        assert done.code == 0, done.err
    killed = train(1, {**settings, "run.dir": "killed"})
    run_until(killed, folder, lambda: bool(checkpoints(folder / "killed")))
    done = run(killed, folder)
    assert done.code == 0, done.err
    return folder


def test_each_set_is_scored_by_name_in_records_and_result(runs: Path) -> None:
    scored = [record for record in records(runs / "alone") if record["accuracy"] is not None]
    assert len(scored) == 4
    assert all(list(record["tasks"]) == ["digits"] for record in scored)
    found = result(runs / "alone")
    digits = found["tasks"]["digits"]
    assert (digits["classes"], digits["labelled"], digits["images_per_epoch"]) == (10, 1438, 74)
    assert digits["accuracy"] == scored[-1]["tasks"]["digits"]
    assert found["accuracy"] == scored[-1]["accuracy"]
    assert digits["accuracy"] * 359 / 100 == pytest.approx(round(digits["accuracy"] * 359 / 100))  # all that it has


@pytest.mark.parametrize("name", SPREAD)
def test_losses_and_both_accuracies_are_those_of_one_process(runs: Path, name: str) -> None:
    alone, spread = (records(runs / each) for each in ("alone", name))
    assert len(alone) == len(spread)
    for expected, found in zip(alone, spread, strict=True):
        numbers = {key: expected[key] for key in SAME if expected[key] is not None}
        assert {key: found[key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
        assert found["tasks"] == expected["tasks"]


def test_a_killed_run_ends_with_the_weights_of_the_undisturbed_one(runs: Path) -> None:
    alone, killed = (load(runs / name) for name in ("alone", "killed"))
    assert alone.keys() == killed.keys()
    assert all(torch.equal(alone[name], killed[name]) for name in alone)
    assert result(runs / "killed")["tasks"] == result(runs / "alone")["tasks"]


def load(folder: Path) -> dict[str, torch.Tensor]:
    path = checkpoints(folder)[-1]
    model: dict[str, torch.Tensor] = read_parts(path, read_manifest(path))["model"]
    return model


def test_a_finished_run_serves_the_head_of_d_sl(runs: Path) -> None:
    finished, trained = read_run(runs / "alone"), load(runs / "alone")
    assert finished.task.classes == ("ash", "birch", "cedar")
    for name in ("classifier.weight", "classifier.bias"):
        assert len(trained[name]) == 13
        assert torch.equal(finished.weights[name], trained[name][:3])
    assert finished.classifier()(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_a_checkpoint_is_refused_with_another_rate(runs: Path, packed_sets: Path, capfd: Any) -> None:
    changed = settings_of(packed_sets)
    changed["data.tasks"] = changed["data.tasks"].replace("1.5", "2.5")
    assert train_here({**changed, "run.dir": runs / "alone"}) == 2
    assert "data.tasks.digits.rate was 1.5, now 2.5" in capfd.readouterr().err
