"""`mixdist export`, `predict` and `evaluate`, by their command lines, on runs that real processes trained."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import QUIET, TINY_VIT, mixdist, result, run, train, train_here

from mixdist.cli import main
from mixdist.data.packing.division import PackOptions
from mixdist.data.packing.pack import pack

pytestmark = pytest.mark.slow
SHORT = {
    **TINY_VIT,
    **QUIET,
    "method.ssl_epochs": 2,
    "method.sl_epochs": 4,
    "train.batch": 16,
    "optim.sl.base_lr": 0.02,
}


@pytest.fixture(scope="module")
def finished(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two processes, weights averaged; and its set, which tests may remove."""
    folder = tmp_path_factory.mktemp("serving")
    shutil.copytree(packed_sets / "tiny", folder / "set")
    settings = {**SHORT, "data.sl": "set", "run.dir": "run", "train.ema_decay": 0.9, "train.eval_batch": 7}
    done = run(train(2, settings), folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run and its set, in the working folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> int:
    """Run a command by its own entry in this process, which saves the imports."""
    return main(arguments)


def test_a_trained_model_is_exported_predicts_and_scores_what_its_run_did(copied, packed_sets):
    done = run(mixdist("export", "run", "--to", "timm", "--license", "mit"), copied)
    assert done.code == 0, done.err
    assert "on 16 images of the test split of set: largest difference to the run's own logits" in done.out
    shutil.rmtree("set")  # nothing of it is needed from here on
    shutil.copytree(packed_sets / "tiny", "elsewhere")
    accuracy = result(copied / "run")["accuracy"]
    done = run(mixdist("evaluate", "run/export-timm", "elsewhere"), copied)
    assert done.code == 0, done.err
    assert f"top-1 {accuracy:.2f} %" in done.out.splitlines()[0]
    assert command("evaluate", "run", "elsewhere", "--json", "scores.json") == 0
    assert json.loads(Path("scores.json").read_text())["accuracy"] == accuracy
    assert command("predict", "run/export-timm", "elsewhere", "--split", "test", "--top", "9", "--out", "p.csv") == 0
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    right = sum(row["class_1"] == row["file"].removeprefix("test/").rpartition("_")[0] for row in rows)
    assert 100 * right / len(rows) == pytest.approx(accuracy)
    assert all(sum(float(row[f"probability_{k}"]) for k in (1, 2, 3)) == pytest.approx(1, abs=1e-5) for row in rows)
    assert len(rows) == 31
    assert "class_4" not in rows[0]


def test_what_cannot_be_read_is_listed_and_the_rest_predicted(copied, packed_sets):
    shutil.copytree(packed_sets / "source" / "test" / "ash", "mixed")
    Path("mixed/000.png").write_bytes(Path("mixed/000.png").read_bytes()[:60])
    Path("mixed/a.jpg").write_text("no image")
    Path("mixed/notes.md").write_text("left out")
    done = run(mixdist("predict", "run", "mixed", "--out", "found.jsonl", "--batch", "3"), copied)
    assert done.code == 1
    assert "10 predictions in found.jsonl\n2 of 12 could not be read:\n  mixed/000.png: " in done.err
    lines = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(f"mixed/{name}" for name in (*images(11), "a.jpg"))
    assert [line["file"] for line in lines if "error" in line] == ["mixed/000.png", "mixed/a.jpg"]
    assert all(len(line["predictions"]) == 1 for line in lines if "error" not in line)
    assert not list(copied.glob("*.partial"))


def images(count: int) -> list[str]:
    return [f"{number:03d}.png" for number in range(count)]


def test_a_reader_that_leaves_ends_the_predictions_without_a_word(copied, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert command("predict", "run", "set") == 0


def test_class_folders_are_evaluated_as_their_set_is(copied, packed_sets, capsys):
    assert command("evaluate", "run", str(packed_sets / "source" / "test")) == 0
    accuracy = result(copied / "run")["accuracy"]
    assert capsys.readouterr().out.startswith(f"top-1 {accuracy:.2f} %")


def test_a_set_that_is_gone_is_made_up_for_by_noise_or_other_images(copied, packed_sets, capsys):
    shutil.rmtree("set")
    assert command("export", "run", "--to", "safetensors", "--out", "noise") == 0
    assert "on 16 images of noise, as set is gone" in capsys.readouterr().out
    images = str(packed_sets / "source" / "test")
    assert command("export", "run", "--to", "safetensors", "--out", "other", "--check-on", images) == 0
    assert f"on 16 images of {images}" in capsys.readouterr().out


def test_a_run_from_before_task_json_asks_its_set(copied, packed_sets, refused):
    Path("run/task.json").unlink()
    assert command("export", "run", "--to", "safetensors", "--out", "model") == 0
    assert json.loads(Path("model/model.json").read_text())["task"]["classes"] == ["ash", "birch", "cedar"]
    shutil.rmtree("set")
    shutil.copytree(packed_sets / "digits", "set")
    refused("set is another set than it was trained on", "export", "run", "--to", "timm")
    shutil.rmtree("set")
    refused("has no task.json, and its set cannot be asked instead", "export", "run", "--to", "timm")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Hold that a command exits with 2 and one line, and leaves the folder as it was."""

    def hold(said: str, *arguments: str) -> None:
        before = sorted(Path().rglob("*"))
        capsys.readouterr()
        code, told = command(*arguments), capsys.readouterr()
        assert (code, told.out) == (2, ""), told.err
        assert said in told.err
        assert len(told.err.splitlines()) == 1, told.err
        assert sorted(Path().rglob("*")) == before

    return hold


def test_a_run_that_is_not_finished_is_refused(copied, refused):
    Path("run/result.json").rename("kept")
    refused("run is not finished (no result.json); train it to its end", "export", "run", "--to", "timm")
    Path("kept").rename("run/result.json")
    plan = json.loads(Path("run/plan.json").read_text())
    Path("run/plan.json").write_text(json.dumps({**plan, "steps": plan["steps"] + 1}))
    refused("run is not finished: its newest checkpoint is of step", "predict", "run", "set")


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        (
            "nowhere does not exist; give what mixdist train or mixdist export has written",
            ("predict", "nowhere", "set"),
        ),
        ("set is neither a run folder (config.yaml) nor", ("evaluate", "set", "set")),
        ("set is not a run folder: it holds no config.yaml", ("export", "set", "--to", "timm")),
        ("invalid choice: 'tim'", ("export", "run", "--to", "tim")),
        ("--top 0 is out of range", ("predict", "run", "set", "--top", "0")),
        ("--out x.txt should be csv or jsonl", ("predict", "run", "set", "--out", "x.txt")),
        ("--out no/x.csv cannot be written", ("predict", "run", "set", "--out", "no/x.csv")),
        ("nothing holds no image", ("predict", "run", "nothing")),
        ("pictures has images of class 'oak', which the model does not know", ("evaluate", "run", "pictures")),
        ("pictures/oak has no labelled image", ("evaluate", "run", "pictures/oak")),
        ("bare has no labels to measure against; mixdist predict says", ("evaluate", "run", "bare")),
        ("all has no test split (it has: train); name one, as in --split train", ("evaluate", "run", "all")),
        ("all has no val split", ("evaluate", "run", "all", "--split", "val")),
    ],
)
def test_mistakes_get_one_line(copied, packed_sets, refused, said, arguments):
    Path("nothing").mkdir()
    shutil.copytree(packed_sets / "source" / "test" / "ash", "pictures/oak")
    pack("pictures/oak", Path("bare"), PackOptions(workers=1))
    pack(str(packed_sets / "source" / "test"), Path("all"), PackOptions(workers=1, test_fraction=0))
    refused(said, *arguments)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("result.json", {"version": 9}, "run: result.json has format version 9, this mixdist reads 1"),
        ("result.json", {"format": "x"}, "run: result.json is not that of a mixdist run"),
        ("result.json", {"versions": "x"}, "run/result.json is damaged: versions: Input should be an object"),
        ("result.json", {"accuracy": "x"}, "run/result.json is damaged: accuracy: Input should be a valid number"),
        ("plan.json", {"steps": None}, "run/plan.json is damaged: steps: Input should be a valid integer"),
        ("task.json", {"mean": [0.5]}, "run/task.json is damaged: mean.1: Field required"),
        ("task.json", {"classes": ["ash"]}, "run/task.json names 1 classes, the model tells 3 apart"),
    ],
)
def test_a_damaged_file_of_the_run_is_refused_by_name(copied, refused, file, content, said):
    path = Path("run") / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    refused(said, "predict", "run", "set")


def test_a_damaged_checkpoint_is_refused_by_name(copied, refused):
    newest = Path("run/checkpoints/latest").read_text().strip()
    path = Path("run/checkpoints") / newest / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    refused(f"run/checkpoints/{newest} is damaged: ema.safetensors", "export", "run", "--to", "timm")


def test_a_backbone_alone_is_exported_for_timm(packed_sets, tmp_path, monkeypatch, capsys, refused):
    monkeypatch.chdir(tmp_path)
    settings = {
        **SHORT,
        "method.arm": "ssl+sl",
        "method.sl_epochs": 0,
        "data.sl": packed_sets / "tiny",
        "run.dir": "run",
    }
    assert train_here(settings) == 0
    assert command("export", "run", "--to", "timm", "--out", "model") == 0
    assert "the backbone alone" in capsys.readouterr().out
    refused("run has no supervised epoch, so no classifier to serve", "export", "run", "--to", "pt2")
