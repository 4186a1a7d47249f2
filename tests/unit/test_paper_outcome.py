"""Ours beside the paper's: means over seeds, differences and speed-ups, and what a reader has to know of them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fake_runs import write_run

from mixdist.paper.cells import Cell
from mixdist.paper.grid import grid_of
from mixdist.paper.outcome import Outcome, read_outcome
from mixdist.paper.table import text_of
from mixdist.paper.write import long_form, markdown, write_outcome

GRID = grid_of("table2").select({"dataset": ["cifar10"], "fraction": [0.1]})
SL, SSL_SL, MIX = GRID.cells
OURS = {SL: (58.0, 1.0), SSL_SL: (60.0, 2.0), MIX: (64.0, 1.6)}  # accuracy of seed 0, slowness


def write_cell(folder: Path, cell: Cell, seed: int, **about: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    own = {"cell": asdict(cell), "trained": {"fraction": cell.fraction, "epochs": cell.epochs}, "seed": seed}
    about = {**own, "scale": 1.0, "changes": {}, "notes": [], **about}
    cell_file = {"format": "mixdist-cell", "version": 1, "hash": "", "identity": {}, "about": about}
    (folder / "cell.json").write_text(json.dumps(cell_file))
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """All arms of Table 2 at 10 % of CIFAR-10, two seeds each."""
    for cell, (accuracy, slowness) in OURS.items():
        for seed in (0, 1):
            folder = tmp_path / f"{cell.name}-seed{seed}"
            write_run(folder, cell.arm, seed, accuracy + seed, slowness, device="GPU")
            write_cell(folder, cell, seed)
    return tmp_path


def outcome(place: Path) -> Outcome:
    return read_outcome(grid_of("table2"), place, GRID.cells)


def test_a_row_is_the_mean_over_seeds_and_its_difference_to_the_paper(place: Path) -> None:
    rows = {row.cell: row for row in outcome(place).rows}
    assert list(rows) == [SL, SSL_SL, MIX]
    accuracy = rows[MIX].accuracy
    assert accuracy is not None
    assert (accuracy.mean, accuracy.deviation) == (64.5, pytest.approx(0.5**0.5))
    assert rows[MIX].difference == pytest.approx(64.5 - 67.53)


def test_speed_ups_are_over_ssl_sl_ours_and_the_papers(place: Path) -> None:
    found = outcome(place)
    rows = {row.cell: row for row in found.rows}
    ours, paper = found.speed_ups(rows[MIX])
    assert paper == pytest.approx(879.9 / 824.77)
    # 8 epochs of SSL and SL, against 4 of each and of MIX, by the seconds an epoch of fake_runs.
    assert ours == pytest.approx((8 * 3.0 + 8 * 2.5) * 2.0 / ((4 * 3.0 + 4 * 3.5 + 4 * 2.5) * 1.6))
    assert found.speed_ups(rows[SSL_SL]) == (pytest.approx(1), pytest.approx(1))


def test_no_speed_up_is_given_between_different_machines(place: Path) -> None:
    for seed in (0, 1):
        path = place / f"{MIX.name}-seed{seed}" / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "device": "another GPU"}))
    found = outcome(place)
    assert found.speed_ups(found.rows[2])[0] is None


def test_no_speed_up_is_given_between_different_layouts(place: Path) -> None:
    for seed in (0, 1):
        write_cell(place / f"{MIX.name}-seed{seed}", MIX, seed, layout={"train.compile": "true"})
    found = outcome(place)
    assert [found.speed_ups(row)[0] is None for row in found.rows] == [False, False, True]
    assert any("ours on 1 × GPU, 1 × GPU with --train.compile true" in note for note in text_of(found).notes)
    layouts = [line["layout"] for line in csv.DictReader(io.StringIO(long_form(found)))]
    assert layouts == [""] * 4 + ["--train.compile true"] * 2


def test_the_table_shows_the_columns_in_which_rows_differ_and_says_the_others_once(place: Path) -> None:
    text = text_of(outcome(place))
    assert text.headings[:3] == ("arm", "seeds", "accuracy %, ours")
    assert "backbone resnet18, D_ssl cifar10, D_sl cifar10, data 10 %, epochs 100, α 0.5, ρ 0.5" in text.shared
    assert text.rows[2][:5] == ("mixtraining", "2", "64.50 ± 0.71", "67.53", "-3.03")
    assert text.headings[4:6] == ("difference, points", "training s, ours")
    assert text.rows[2][5] == "57.6 ± 0.0"
    assert text.marks == ()
    assert "Seeds of a row: 2; the paper has 4." in text.notes
    assert "± is the sample standard deviation over the seeds of a row." in text.notes
    assert any("Seeds share the images, labels and noise that are drawn" in note for note in text.notes)
    assert any("on one RTX 6000 Ada: hold the speed-ups against each other" in note for note in text.notes)


def test_as_many_seeds_as_the_papers_have_a_spread_that_is_explained(place: Path) -> None:
    for seed in (2, 3):
        for cell, (accuracy, slowness) in OURS.items():
            write_cell(write_run(place / f"{cell.name}-seed{seed}", cell.arm, seed, accuracy, slowness), cell, seed)
    notes = text_of(outcome(place)).notes
    assert "± is the sample standard deviation over the seeds of a row." in notes
    assert not any(note.startswith("Seeds of a row") for note in notes)


def notes_of(table: str, tmp_path: Path, **about: Any) -> tuple[str, ...]:
    cells = grid_of(table).select({"dataset": ["cifar10"]}).cells
    for cell in cells:
        for seed in (0, 1):
            write_cell(write_run(tmp_path / f"{cell.name}-{seed}", cell.arm, seed), cell, seed, **about)
    return text_of(read_outcome(grid_of(table), tmp_path, cells)).notes


@pytest.mark.parametrize("table", ["table5", "table6", "table8", "table9", "table10", "table11"])
def test_the_papers_machine_is_named_only_where_the_paper_gives_its_seconds(tmp_path: Path, table: str) -> None:
    notes = notes_of(table, tmp_path)
    assert any(note.endswith("ours on 1 × cpu.") for note in notes)
    assert not any("RTX 6000" in note for note in notes)


@pytest.mark.parametrize(("table", "drawn"), [("table7", False), ("table8", True), ("table9", True), ("table14", True)])
def test_it_is_said_where_seeds_share_what_is_drawn(tmp_path: Path, table: str, drawn: bool) -> None:
    assert any("Seeds share the images" in note for note in notes_of(table, tmp_path)) == drawn


def test_a_speed_up_names_its_baseline(tmp_path: Path) -> None:
    def baseline(table: str, **about: Any) -> str:
        notes = notes_of(table, tmp_path / f"{table}{len(about)}", **about)
        (note,) = [note for note in notes if note.startswith("Speed-up")]
        return note

    assert "of ssl+sl, whose SSL masks features, as the paper's, in the same setting" in baseline("table7")
    assert "of ssl+sl in the same setting" in baseline("table4")
    assert "of ssl+sl in the same setting" in baseline("table7", changes={"method.ssl_masking": "input"})


def test_what_is_trained_is_said_where_it_is_not_the_cells(place: Path) -> None:
    trained = {"fraction": 0.1, "epochs": "100 + 3", "mix_ratio": 0.3}
    write_cell(place / f"{MIX.name}-seed0", MIX, 0, trained=trained)
    found = outcome(place)
    text = text_of(found)
    assert text.headings[1] == "trained on"
    assert [row[1] for row in text.rows] == ["10 %, 100 epochs", "10 %, 100 epochs", "10 %, 100 + 3 epochs, ρ 0.3"]
    lines = [line for line in csv.DictReader(io.StringIO(long_form(found))) if line["method"] == "mixtraining"]
    assert [(line["epochs"], line["trained_epochs"]) for line in lines] == [("100", "100 + 3"), ("100", "100")]


def test_rows_of_other_filters_stay_in_the_table(place: Path) -> None:
    other = next(cell for cell in grid_of("table2").cells if (cell.sl_dataset, cell.arm) == ("cifar100", "sl"))
    write_cell(write_run(place / "another", "sl"), other, 0)
    text = text_of(outcome(place))
    assert len(text.rows) == 4
    assert text.headings[:3] == ("arm", "D_ssl", "D_sl")


def test_a_cell_without_a_run_has_a_row_and_no_numbers(tmp_path: Path) -> None:
    text = text_of(outcome(tmp_path))
    assert [row[1:4] for row in text.rows] == [("0", "–", "58.91"), ("0", "–", "64.43"), ("0", "–", "67.53")]
    assert text.rows[0][-1] == "2.24×"


def test_failed_and_unfinished_runs_are_told(place: Path) -> None:
    broken = write_cell(place / "broken", SL, 2)
    (broken / "failed.json").write_text(json.dumps({"code": 2, "reason": "no room | on the disk"}))
    write_cell(place / "waiting", SL, 3)
    found = outcome(place)
    text = text_of(found)
    assert "Failed: broken: no room | on the disk" in text.notes
    assert "Not finished yet: 1 run." in text.notes
    assert "no room \\| on the disk" in markdown(text)
    wrong = write_cell(place / "wrong", SL, 4, changes={"train.batch": "7"})
    (wrong / "failed.json").write_text(json.dumps({"code": 2, "reason": "a batch of 7"}))
    assert text_of(outcome(place)).marks == ()  # its settings stand in no figure
    states = {line["run"]: line["state"] for line in csv.DictReader(io.StringIO(long_form(found)))}
    assert (states["broken"], states["waiting"]) == ("failed", "not finished")


def test_what_makes_the_runs_others_than_the_papers_stands_on_top(tmp_path: Path) -> None:
    about = {"scale": 0.1, "changes": {"train.batch": "64"}, "notes": ["data/cifar10 holds 5 images"]}
    about["trained"] = {"fraction": 0.01, "epochs": 10}
    write_cell(write_run(tmp_path / "a", "sl"), SL, 0, **about)
    write_outcome(lambda: outcome(tmp_path), tmp_path)
    for name in ("report.md", "report.html"):
        said = (tmp_path / name).read_text()
        assert said.index("Scaled to 0.1 by --scale") < said.index("58.91")
        assert "Settings other than the paper" in said
        assert "data/cifar10 holds 5 images" in said
        assert "data limitation, ResNet-18, scaled to 0.1" in said.split("\n\n")[0]
    assert "<title>mixdist: table2: data limitation, ResNet-18, scaled to 0.1</title>" in said
    assert "](resnet18-cifar10.svg)" in (tmp_path / "report.md").read_text()
    picture = (tmp_path / "resnet18-cifar10.svg").read_text()
    assert "ours, scaled by 0.1, of fewer images, sl" in picture
    (line,) = csv.DictReader((tmp_path / "results.csv").open())
    assert (line["scale"], line["trained_epochs"], line["changes"]) == ("0.1", "10", "--train.batch 64")
    assert line["notes"] == "data/cifar10 holds 5 images"


def test_a_run_that_stands_for_another_has_its_result(tmp_path: Path) -> None:
    write_run(tmp_path / "table1" / "first", "sl", accuracy=59.0)
    folder = write_cell(tmp_path / "table2" / "same", SL, 0)
    cell = json.loads((folder / "cell.json").read_text())
    (folder / "cell.json").write_text(json.dumps({**cell, "result_in": "../../table1/first"}))
    (row, *_) = outcome(tmp_path / "table2").rows
    assert row.accuracy is not None
    assert row.accuracy.mean == 59.0


def test_the_files_are_the_same_for_the_same_runs_and_the_page_is_self_contained(place: Path) -> None:
    names = ("results.csv", "report.md", "report.html", "resnet18-cifar10.svg")
    texts = []
    for _ in range(2):
        write_outcome(lambda: outcome(place), place)
        texts.append([(place / name).read_text() for name in names])
    assert texts[0] == texts[1]
    page = texts[0][2]
    assert page.count("<svg") == 1
    assert "://" not in page.replace("http://www.w3.org/", "")
