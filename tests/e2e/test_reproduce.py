"""`mixdist reproduce` on the real command line: a grid of tiny runs, its outputs, and how it goes on."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from damage import flip_bits
from launching import Done, environment, mixdist, records, run, start, wait_for
from PIL import Image

from mixdist.cli import main
from mixdist.config.data_section import DataConfig
from mixdist.data.open_set import open_set
from mixdist.data.select import training_ids
from mixdist.paper.jobs import read_cell

pytestmark = pytest.mark.slow

CLASSES, TRAIN, TEST = 10, 200, 2  # as many classes as CIFAR-10; images of each
TINY = ("--model.options", "{depth: 1, embed_dim: 24, num_heads: 3}", "--model.decoder_depth", "1")
QUIET = ("--", "--tracking.wandb", "disabled", "--train.precision", "fp32", "--train.log_every", "1", *TINY)
Here = Callable[[list[str], Path], Done]
ARMS = ("sl", "ssl+sl", "mixtraining")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a packed set named "cifar10": 2,000 images of 8 px in 10 classes, and 20 to test on."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in range(CLASSES):
            place = folder / "source" / split / f"class{name}"
            place.mkdir(parents=True)
            for row in range(count):
                noisy = 25 * name + generator.normal(0, 20, (8, 8, 3))
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{row}.png")
    done = run(mixdist("pack", "source", "cifar10"), folder)
    assert done.code == 0, done.err
    return folder


def reproduce(data: Path, *arguments: str) -> list[str]:
    own = [*arguments] if "--" in arguments else [*arguments, *QUIET]
    place = own.index("--")
    return mixdist("reproduce", *own[:place], "--dataset", "cifar10", "--data", str(data), *own[place:])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs a command in this process, which saves its imports; what it trains are processes of their own."""

    def run_here(command: list[str], folder: Path) -> Done:
        monkeypatch.chdir(folder)
        for name, value in environment().items():
            monkeypatch.setenv(name, value)
        return Done(main(command[1:]), *capsys.readouterr())

    return run_here


def trained(done: Done) -> int:
    return done.out.count(": training; ")


def lines(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def grid(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The three arms of Table 1 at all of the data, one seed, shortened; and what the command printed."""
    folder = tmp_path_factory.mktemp("grid")
    done = run(reproduce(data, "table1", "--fraction", "1", "--seeds", "0", "--scale", "0.02"), folder, timeout_s=240)
    assert done.code == 0, done.err + done.out
    return folder, done


def test_ours_stand_beside_the_papers_and_are_marked_as_scaled(grid: tuple[Path, Done]) -> None:
    folder, done = grid[0] / "runs" / "table1-scale-0.02", grid[1]
    found = lines(folder / "results.csv")
    assert [line["method"] for line in found] == list(ARMS)
    assert [float(line["paper_accuracy"]) for line in found] == [81.52, 84.69, 87.13]
    assert {(line["table"], line["epochs"], line["trained_epochs"], line["scale"]) for line in found} == {
        ("1", "100", "2", "0.02")
    }
    assert all("holds 2,000 training and 20 test images" in line["notes"] for line in found)
    for line in found:
        result = json.loads((folder / line["run"] / "result.json").read_text())
        assert float(line["accuracy"]) == pytest.approx(result["accuracy"], abs=1e-3)
        assert float(line["latency_s"]) == pytest.approx(result["latency_s"], abs=1e-2)
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for said in (page, text, done.out):
        assert "Scaled to 0.02" in said
        assert "87.13" in said
        assert "holds 2,000 training and 20 test images" in said
    assert f"{float(found[2]['accuracy']) - 87.13:+.2f}" in text
    assert "<script" not in page
    picture = ElementTree.parse(folder / "vit_tiny-cifar10.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "ours, scaled by 0.02, of fewer images, mixtraining" in picture.attrib["aria-label"]


def test_a_run_knows_its_cell_and_trained_what_the_cell_says(grid: tuple[Path, Done]) -> None:
    folder = grid[0] / "runs" / "table1-scale-0.02" / "vit_tiny-cifar10-p1-e100-a0.5-r0.5-mixtraining-seed0"
    assert list(json.loads((folder / "result.json").read_text())["phases"]) == ["ssl", "mix", "sl"]
    cell = read_cell(folder)
    assert cell is not None
    assert cell["about"]["cell"]["accuracy"] == 87.13
    assert "mixtraining" in (folder / "train.log").read_text()


def test_what_is_finished_is_not_trained_again_in_this_grid_or_another(
    data: Path, grid: tuple[Path, Done], here: Here
) -> None:
    again = here(reproduce(data, "table1", "--fraction", "1", "--seeds", "0", "--scale", "0.02"), grid[0])
    assert (again.code, trained(again)) == (0, 0)
    other = here(
        reproduce(data, "table7", "--epochs", "100", "--arm", "sl", "--seeds", "0", "--scale", "0.02"), grid[0]
    )
    assert (other.code, trained(other)) == (0, 0)
    assert "the same run is finished in runs/table1-scale-0.02/vit_tiny-cifar10-p1-e100-sl-seed0" in other.out
    (line,) = lines(grid[0] / "runs" / "table7-scale-0.02" / "results.csv")
    (first, *_) = lines(grid[0] / "runs" / "table1-scale-0.02" / "results.csv")
    assert (line["accuracy"], line["state"]) == (first["accuracy"], "finished")


def test_a_folder_with_a_run_of_other_settings_is_refused(data: Path, grid: tuple[Path, Done], here: Here) -> None:
    before = sorted(grid[0].rglob("*"))
    for own in (["--seeds", "0"], ["--seeds", "1"], ["--seeds", "0", "--dry-run"]):
        asked = ("table1", "--fraction", "1", "--arm", "sl", *own, "--scale", "0.02")
        done = here(reproduce(data, *asked, *QUIET, "--train.batch", "64"), grid[0])
        assert done.code == 2
        (line,) = done.err.splitlines()
        assert "holds a run of other settings (train.batch was 256, now 64); give another --out" in line
    assert sorted(grid[0].rglob("*")) == before


def test_a_dry_run_trains_and_writes_nothing(data: Path, grid: tuple[Path, Done], here: Here) -> None:
    before = sorted(grid[0].rglob("*"))
    asked = ("table1", "--fraction", "0.1", "1", "--seeds", "0", "1", "--scale", "0.02", "--dry-run", "--part", "2/9")
    done = here(reproduce(data, *asked), grid[0])
    assert done.code == 0, done.err
    rows = {words[0]: words[1:3] for words in map(str.split, done.out.splitlines()) if len(words) == 4}
    # 40 and 20 images are one step an epoch; 2 epochs of SSL and of SL, of which mixtraining merges one.
    assert rows["vit_tiny-cifar10-p1-e100-sl"] == ["1", "2"]
    assert rows["vit_tiny-cifar10-p1-e100-ssl+sl"] == ["1", "4"]
    assert rows["vit_tiny-cifar10-p1-e100-a0.5-r0.5-mixtraining"] == ["1", "3"]
    assert rows["vit_tiny-cifar10-p0.1-e100-sl"] == ["2", "2"]
    assert "9 runs, 27 steps, about" in done.out
    assert "part 2/9 has about 0.0 hours of them" in done.out
    assert "scaled by 0.02: fewer epochs and images than the paper's" in done.out
    assert sorted(grid[0].rglob("*")) == before


def test_a_source_that_is_not_there_is_refused_before_anything_is_done(tmp_path: Path, here: Here) -> None:
    for own in ([], ["--dry-run"]):
        done = here(reproduce(tmp_path / "none", "table1", "--source", "cifar100=nowhere", *own), tmp_path)
        assert done.code == 2
        (line,) = done.err.splitlines()
        assert "--source cifar100=nowhere does not exist; give a folder, an archive or a packed set" in line
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_set_that_is_not_here_counts_its_known_size(tmp_path: Path, here: Here) -> None:
    done = here(
        reproduce(tmp_path / "none", "table1", "--fraction", "0.1", "--arm", "sl", "--seeds", "0", "--dry-run"),
        tmp_path,
    )
    assert done.code == 0, done.err
    assert "CIFAR-10 is not in" in done.out
    assert "1 runs, 2,000 steps" in done.out  # 5,000 images are 20 steps of 256 an epoch
    assert list(tmp_path.iterdir()) == []


def test_a_label_budget_trains_with_the_labels_of_its_shares_and_ssl_on_all_images(
    data: Path, tmp_path: Path, here: Here
) -> None:
    epochs = (
        "--method.ssl_epochs",
        "2",
        "--method.sl_epochs",
        "2",
        "--model.patch_size",
        "2",
        "--data.fraction",
        "0.1",
    )
    budget = mixdist("label-budget", str(data / "cifar10"), "--share", "0.1", "--seeds", "0", "--arm", "ssl+sl")
    done = here([*budget, *QUIET, *epochs, "--model.decoder_heads", "3"], tmp_path)
    assert done.code == 0, done.err + done.out
    place = tmp_path / "runs" / "label-budget-cifar10"
    (line,) = lines(place / "results.csv")
    assert (line["share"], line["labelled"], line["state"]) == ("0.1", "20", "finished")
    phases = json.loads((place / line["run"] / "result.json").read_text())["phases"]
    assert {name: phase["images"] for name, phase in phases.items()} == {"ssl": 2 * 200, "sl": 2 * 20}


@pytest.mark.minutes
def test_two_processes_share_a_grid_and_each_run_is_taken_once(data: Path, tmp_path: Path) -> None:
    asked = ("table1", "--fraction", "1", "--arm", "sl", "ssl+sl", "--seeds", "0", "1", "--scale", "0.02")
    both = [start(reproduce(data, *asked), tmp_path) for _ in range(2)]
    ended = [Done(each.wait(timeout=240), *each.communicate()) for each in both]
    assert [done.code for done in ended] == [0, 0], ended
    assert sum(map(trained, ended)) == 4
    assert all(trained(done) for done in ended)
    place = tmp_path / "runs" / "table1-scale-0.02"
    assert {line["state"] for line in lines(place / "results.csv")} == {"finished"}
    assert len(lines(place / "results.csv")) == 4
    assert not list(place.glob("*.lock"))


def test_parts_of_a_job_array_take_every_nth_run(data: Path, grid: tuple[Path, Done], here: Here) -> None:
    asked = ("table7", "--epochs", "100", "--arm", "ssl+sl", "mixtraining", "--seeds", "0", "--scale", "0.02")
    done = here(reproduce(data, *asked, "--part", "2/2"), grid[0])
    assert done.code == 0, done.err
    place = grid[0] / "runs" / "table7-scale-0.02"
    assert (place / "vit_tiny-cifar10-p1-e100-a0.5-r0.5-mixtraining-seed0").is_dir()
    assert not (place / "vit_tiny-cifar10-p1-e100-ssl+sl-seed0").exists()


@pytest.mark.minutes
def test_a_run_that_fails_is_marked_the_others_go_on_and_a_later_try_mends_it(
    data: Path, tmp_path: Path, here: Here
) -> None:
    asked = ("table1", "--fraction", "0.1", "1", "--arm", "sl", "--seeds", "0", "--scale", "0.5")
    own = tmp_path / "data"
    shutil.copytree(data / "cifar10", own / "cifar10")
    twentieth, half = (
        set(training_ids(open_set(data / "cifar10"), DataConfig(sl="", fraction=share))) for share in (0.05, 0.5)
    )
    flip_bits(own / "cifar10", min(half - twentieth))
    done = here(reproduce(own, *asked), tmp_path)
    assert done.code == 1
    assert trained(done) == 2
    assert "1 of 2 runs failed" in done.out
    place = tmp_path / "runs" / "table1-scale-0.5"
    assert [line["state"] for line in lines(place / "results.csv")] == ["finished", "failed"]
    assert "Failed: vit_tiny-cifar10-p1-e100-sl-seed0: " in (place / "report.html").read_text()

    again = here(reproduce(data, *asked), tmp_path)
    assert (again.code, trained(again)) == (0, 1)
    assert [line["state"] for line in lines(place / "results.csv")] == ["finished", "finished"]


@pytest.mark.minutes
def test_a_signal_stops_the_grid_after_a_save_and_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    asked = ("table1", "--fraction", "0.1", "--arm", "sl", "--seeds", "0", "1")
    process = start(reproduce(data, *asked), tmp_path)
    first, second = (tmp_path / "runs" / "table1" / f"vit_tiny-cifar10-p0.1-e100-sl-seed{seed}" for seed in (0, 1))
    wait_for(lambda: records(first), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    assert (first / "stopped.json").exists()
    assert not second.exists()
    steps = json.loads((first / "stopped.json").read_text())["step"]
    done = run(reproduce(data, *asked, "--seeds", "0"), tmp_path)
    assert done.code == 0, done.out + done.err
    assert [record["step"] for record in records(first)] == list(range(1, 101))
    assert 0 < steps < 100


@pytest.mark.minutes
@pytest.mark.distributed
def test_nproc_trains_each_run_on_so_many_processes(data: Path, tmp_path: Path) -> None:
    asked = ("table1", "--fraction", "1", "--arm", "sl", "--seeds", "0", "--scale", "0.02", "--nproc", "2")
    done = run(reproduce(data, *asked), tmp_path, timeout_s=240)
    assert done.code == 0, done.out + done.err
    (line,) = lines(tmp_path / "runs" / "table1-scale-0.02" / "results.csv")
    assert line["world_size"] == "2"
