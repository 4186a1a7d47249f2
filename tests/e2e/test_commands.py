"""Pack, train, compare: the commands a user types, what they leave behind, and how they say what is wrong."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator
from launching import QUIET, TINY_VIT, checkpoints, flags, mixdist, records, result, run, train_here
from PIL import Image

from mixdist import __version__
from mixdist.report.schema import FOLDER as SCHEMAS

ARMS = {"sl": ["sl"], "ssl+sl": ["ssl", "sl"], "mixtraining": ["ssl", "mix", "sl"]}
SETTINGS = {
    **QUIET,
    **TINY_VIT,
    "method.ssl_epochs": 2,
    "method.sl_epochs": 2,
    "optim.ssl.base_lr": 1e-2,
    "optim.sl.base_lr": 1e-2,
    "train.batch": 16,
}
RUN_FILES = {
    *("config.yaml", "plan.json", "metrics.jsonl", "result.json", "checkpoints", "reconstruction.png"),
    *("confusion.json", "task.json"),
}
RECORD = {
    "step": int,
    "phase": str,
    "epoch": int,
    "phase_epoch": int,
    "samples": int,
    "loss": float,
    "loss_ssl": float | None,
    "loss_sl": float | None,
    "lr": float,
    "lr_reconstruct": float | None,
    "lr_classify": float | None,
    "alpha": float,
    "grad_norm": float,
    "images_per_s": float,
    "data_wait": float,
    "data_bound": bool,
    "decode": float,
    "host_to_device": float,
    "memory_mb": float,
    "latency_s": float,
    "accuracy": float | None,
    "top5": float | None,
    "knn": float | None,
    "linear_probe": float | None,
    "feature_spread": float | None,
    "feature_rank": float | None,
    "collapsed": bool | None,
    "cos_ssl_sl": float | None,
    "cos_ssl_mix": float | None,
    "cos_sl_mix": float | None,
    "loss_scale": float | None,
    "reconstruction": str | None,
    "tasks": dict | None,
    "skipped": int,
    "bad_samples": int,
}


@pytest.fixture(scope="module")
def runs(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of each arm; that of mixtraining by the command, the others by its entry."""
    folder = tmp_path_factory.mktemp("arms")
    for arm in ARMS:
        own = {**SETTINGS, "data.sl": packed_sets / "tiny", "method.arm": arm, "run.dir": folder / arm}
        if arm == "mixtraining":
            done = run(mixdist("train", *flags(own)), folder)
            assert (done.code, done.errors) == (0, []), done.err
            assert f"mixdist compare {folder / arm}" in " ".join(done.out.split())
        else:
            assert train_here(own) == 0
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_what_a_run_leaves_is_what_the_shipped_schemas_say(runs: Path, arm: str) -> None:
    check = {
        name: Draft202012Validator(json.loads((SCHEMAS / f"{name}-1.schema.json").read_text()))
        for name in ("metrics", "result", "confusion")
    }
    for record in records(runs / arm):
        check["metrics"].validate(record)
    check["result"].validate(result(runs / arm))
    confusion = json.loads((runs / arm / "confusion.json").read_text())
    check["confusion"].validate(confusion)
    assert confusion["classes"] == ["ash", "birch", "cedar"]
    assert [sum(row) for row in confusion["counts"]] == [11, 10, 10]
    right = sum(row[label] for label, row in enumerate(confusion["counts"]))
    assert 100 * right / 31 == pytest.approx(result(runs / arm)["accuracy"])


@pytest.mark.parametrize("arm", ARMS)
def test_the_run_folder_is_complete(runs: Path, arm: str) -> None:
    found = {path.name for path in (runs / arm).iterdir()}
    assert found == RUN_FILES - ({"reconstruction.png"} if arm == "sl" else set())
    plan = json.loads((runs / arm / "plan.json").read_text())
    assert [phase["name"] for phase in plan["phases"]] == ARMS[arm]
    assert plan["steps"] == records(runs / arm)[-1]["step"]
    assert len(checkpoints(runs / arm)) == 2
    if arm != "sl":
        with Image.open(runs / arm / "reconstruction.png") as picture:
            assert picture.size[0] > picture.size[1]


@pytest.mark.parametrize("arm", ARMS)
def test_every_record_has_all_fields_and_each_phase_its_own(runs: Path, arm: str) -> None:
    found = records(runs / arm)
    assert list(dict.fromkeys(record["phase"] for record in found)) == ARMS[arm]
    for number, record in enumerate(found, start=1):
        assert record.keys() == RECORD.keys()
        assert all(isinstance(record[name], kind) for name, kind in RECORD.items())
        assert record["step"] == number
        assert (record["loss_ssl"] is None, record["lr_reconstruct"] is None) == (record["phase"] == "sl",) * 2
        assert (record["loss_sl"] is None, record["lr_classify"] is None) == (record["phase"] == "ssl",) * 2
        assert record["alpha"] == {"ssl": 1, "mix": 0.5, "sl": 0}[record["phase"]]
        ssl, sl = record["loss_ssl"] or 0, record["loss_sl"] or 0
        assert record["loss"] == pytest.approx(record["alpha"] * ssl + (1 - record["alpha"]) * sl)
        assert record["images_per_s"] > 0
        assert 0 <= record["data_wait"] <= 1
        assert record["memory_mb"] > 1
    ends = [index for index, record in enumerate(found) if record["accuracy"] is not None]
    last = {record["epoch"]: index for index, record in enumerate(found) if record["phase"] != "ssl"}
    assert ends == list(last.values())  # evaluated at the end of each supervised epoch


@pytest.mark.parametrize("arm", ARMS)
def test_result_json_says_what_came_out_and_on_what(runs: Path, packed_sets: Path, arm: str) -> None:
    found, lines = result(runs / arm), records(runs / arm)
    images = {"ssl": 97, "mix": 49, "sl": 49}
    epochs = dict.fromkeys(ARMS[arm], 1 if arm == "mixtraining" else 2)
    assert list(found["phases"]) == ARMS[arm]
    for name, phase in found["phases"].items():
        assert phase["epochs"] == epochs[name]
        assert phase["images"] == epochs[name] * images[name]
        assert phase["steps"] == epochs[name] * math.ceil(images[name] / 16)
        assert phase["images_per_s"] == pytest.approx(phase["images"] / phase["latency_s"])
    assert found["latency_s"] == pytest.approx(sum(phase["latency_s"] for phase in found["phases"].values()))
    assert found["latency_s"] < found["wall_s"]
    assert {name: found[name] for name in ("accuracy", "top5", "samples")} == {
        name: lines[-1][name] for name in ("accuracy", "top5", "samples")
    }
    expected = {
        "format": "mixdist-result",
        "version": 1,
        "arm": arm,
        "seed": 0,
        "world_size": 1,
        "precision": "fp32",
        "fraction": 1.0,
        "labelled": 49,
        "unlabelled": 48,
        "backbone": "vit_tiny_patch16_224",
        "data": "tiny",
    }
    assert {name: found[name] for name in expected} == expected
    assert all(found["versions"][name] for name in ("python", "mixdist", "torch", "timm", "numpy"))
    for name in ("evaluation_s", "checkpoint_s", "setup_s", "parameters", "memory_mb", "images_per_s"):
        assert found[name] > 0
    assert {"device", "git", "finished"} <= found.keys()


def test_compare_writes_a_page_with_all_arms(runs: Path) -> None:
    done = run(mixdist("compare", ".", "--out", "report.html"), runs)
    assert (done.code, done.errors) == (0, []), done.err
    assert "wrote report.html, beside it report.md, report.csv and report-figures/" in done.err
    page = (runs / "report.html").read_text()
    for arm in ARMS:
        assert arm in done.out
        assert arm in page
        assert arm in (runs / "report.md").read_text()


def test_the_config_of_a_run_runs_again_as_it_is(runs: Path, packed_sets: Path, tmp_path: Path) -> None:
    asked = runs / "mixtraining" / "config.yaml"
    assert train_here({"run.dir": tmp_path / "again"}, "--config", str(asked)) == 0
    first, again = (records(folder) for folder in (runs / "mixtraining", tmp_path / "again"))
    assert [record["loss"] for record in again] == pytest.approx([record["loss"] for record in first], rel=1e-5)
    config = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (asked.parent, tmp_path / "again")]
    assert config[0].pop("run") | {"dir": str(tmp_path / "again")} == config[1].pop("run")
    assert config[0] == config[1]


def test_print_config_prints_what_would_run_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not train_here({"data.sl": "set", "seed": 5}, "--print-config")  # torch's `record` returns at exit code 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["data"]["sl"], printed["method"]["arm"]) == (5, "set", "mixtraining")
    assert list(tmp_path.iterdir()) == []


def test_resnet18_with_the_autoencoder_head_runs_all_phases(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            save_images(tmp_path / "source" / split / name, count, size=32)
    assert run(mixdist("pack", "source", "set"), tmp_path).code == 0
    epochs = {"method.ssl_epochs": 2, "method.sl_epochs": 2}  # one each of SSL, MIX and SL
    own = {**QUIET, **epochs, "data.sl": tmp_path / "set", "model.backbone": "resnet18", "run.dir": tmp_path / "run"}
    assert train_here({**own, "train.batch": 5}) == 0
    found = records(tmp_path / "run")
    assert [record["phase"] for record in found] == ["ssl"] * 3 + ["mix"] * 3 + ["sl"] * 3
    assert all(math.isfinite(record["loss"]) for record in found)
    assert result(tmp_path / "run")["accuracy"] in (0, 25, 50, 75, 100)


def test_a_flat_folder_without_labels_pretrains(
    packed_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {**SETTINGS, "data.sl": packed_sets / "flat", "method.sl_epochs": 0, "run.dir": tmp_path / "run"}
    assert train_here(own) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES - {"confusion.json"}
    found = result(tmp_path / "run")
    assert (found["accuracy"], found["labelled"], list(found["phases"])) == (None, 0, ["ssl"])
    assert [record["loss_sl"] for record in records(tmp_path / "run")] == [None] * 6
    printed = capsys.readouterr().out
    assert "no supervised epoch" in printed
    assert "mixdist compare" not in printed  # which takes runs that have an accuracy


def save_images(folder: Path, count: int, size: int) -> None:
    generator = np.random.default_rng(len(folder.name))
    folder.mkdir(parents=True)
    for row in range(count):
        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{row}.png")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Folders that cannot be packed: "empty", "only-in-test" and "broken"."""
    (tmp_path / "empty").mkdir()
    for place in ("only-in-test/train/cat", "only-in-test/test/cat", "only-in-test/test/dog", "broken/cat"):
        save_images(tmp_path / place, 3, size=8)
    image = tmp_path / "broken" / "cat" / "1.png"
    image.write_bytes(image.read_bytes()[:60])
    return tmp_path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "SOURCE nowhere is not a folder"),
        ("empty", "empty holds no images"),
        ("only-in-test", "class dog is in only-in-test/test but not in the train folder"),
        ("broken", "broken/cat/1.png"),
    ],
)
def test_a_source_that_cannot_be_packed_is_one_line_and_exit_code_2(sources: Path, source: str, message: str) -> None:
    done = run(mixdist("pack", source, "set"), sources)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert done.err.startswith("mixdist: error: ")
    assert message in done.err
    assert not (sources / "set").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.sl": "nowhere"}, "nowhere does not exist"),
        ({"data.sl": "."}, "has no manifest.json"),
        ({"data.sl": "out-of-range"}, "label"),
        ({"data.fraction": 0.02}, "data.fraction 0.02"),
        ({"data.sl": "flat"}, "has no labelled sample"),
        ({"model.backbone": "resnet81"}, "model.backbone 'resnet81' is not a model of timm"),
        ({"model.patch_size": 3}, "model.patch_size 3 does not divide the image size 8"),
        ({"method.mix_ratio": 1.5}, "method.mix_ratio"),
        ({"method.ssl_epochs": 0, "method.sl_epochs": 0}, "nothing to train"),
        ({"run.dir": "tiny/manifest.json"}, "run.dir"),
    ],
)
def test_a_run_that_cannot_start_is_one_line_and_exit_code_2(
    packed_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "flat"):
        Path(name).symlink_to(packed_sets / name)
    shutil.copytree("tiny", "out-of-range")
    index = np.load("out-of-range/train.index.npy")
    index["label"][0] = 3
    np.save("out-of-range/train.index.npy", index)

    assert train_here({**SETTINGS, "data.sl": "tiny", "run.dir": "run", **change}) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("mixdist: error: ")
    assert message in line
    assert not Path("run").exists() or not any(Path("run").iterdir())


def test_a_mistake_reaches_the_shell_as_one_line(packed_sets: Path, tmp_path: Path) -> None:
    command = mixdist("train", *flags({**SETTINGS, "data.sl": packed_sets / "tiny", "model.backbone": "resnet81"}))
    done = run(command, tmp_path)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1


def test_the_command_line_is_a_module_too(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "mixdist.cli", "--version"], tmp_path)
    assert (done.code, done.out) == (0, f"mixdist {__version__}\n")
