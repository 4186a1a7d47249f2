"""The paper's tables as grids: every row of results.csv is a cell of one, and filters that match nothing say why."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mixdist.paper
from mixdist.cli import main
from mixdist.errors import UserError
from mixdist.paper.cells import published
from mixdist.paper.grid import TITLES, Grid, grid_of

RESULTS = Path(mixdist.paper.__file__).with_name("results.csv")


def test_every_row_of_the_paper_is_a_cell_with_a_folder_name_of_its_own() -> None:
    with RESULTS.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 312
    tables = Counter(f"table{row['table']}" for row in rows)
    assert {name: len(grid_of(name).cells) for name in TITLES if name != "figure1"} == tables
    for name in TITLES:
        cells = grid_of(name).cells
        assert len({cell.name for cell in cells}) == len(cells)


def test_a_cell_holds_what_its_row_says() -> None:
    cell = next(each for each in published() if each.table == "table2" and each.accuracy == 67.53)
    assert (cell.backbone, cell.ssl_dataset, cell.sl_dataset, cell.arm) == (
        "resnet18",
        "cifar10",
        "cifar10",
        "mixtraining",
    )
    assert (cell.fraction, cell.epochs, cell.loss_ratio, cell.mix_ratio, cell.latency_s) == (0.1, 100, 0.5, 0.5, 824.77)
    assert cell.name == "resnet18-cifar10-p0.1-e100-a0.5-r0.5-mixtraining"
    assert next(each for each in published() if each.table == "table5").latency_s is None


def test_figure_1_is_tiny_imagenet_at_10_50_and_100_percent_for_50_75_and_100_epochs() -> None:
    cells = grid_of("figure1").cells
    assert {cell.sl_dataset for cell in cells} == {"tiny-imagenet"}
    assert {(cell.fraction, cell.epochs) for cell in cells} == {(p, e) for p in (0.1, 0.5, 1.0) for e in (50, 75, 100)}
    assert len(cells) == 27


def test_filters_leave_the_cells_that_match_all_of_them() -> None:
    chosen = grid_of("table1").select(
        {"dataset": ["cifar10", "cifar100"], "fraction": [0.1], "arm": ["sl"], "epochs": None}
    )
    assert [cell.name for cell in chosen.cells] == ["vit_tiny-cifar10-p0.1-e100-sl", "vit_tiny-cifar100-p0.1-e100-sl"]


@pytest.mark.parametrize(
    ("table", "wanted", "message"),
    [
        ("table99", {}, "'table99' is no table or figure of the paper; did you mean 'table9'?; there are table1, "),
        ("table12", {}, "table12 holds the paper's hyperparameters, not results"),
        (
            "table2",
            {"dataset": ["cifar"]},
            "--dataset cifar matches no cell of table2, which has cifar10, cifar100, tiny-",
        ),
        ("table1", {"backbone": ["resnet18"]}, "--backbone resnet18 matches no cell of table1, which has vit_tiny"),
        (
            "table1",
            {"epochs": [30]},
            "--epochs 30 matches no cell of table1, which has 100; to train for fewer, use --scale",
        ),
        ("table1", {"fraction": [0.2]}, "--fraction 0.2 matches no cell of table1, which has 0.1, 0.25, 0.5, 0.75, 1"),
        ("table11", {"arm": ["sl"]}, "--arm sl matches no cell of table11, which has mixtraining"),
    ],
)
def test_a_filter_that_matches_nothing_says_what_would(
    table: str, wanted: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        grid_of(table).select(wanted)
    assert str(caught.value).startswith(message)


def test_filters_that_match_nothing_together_are_named_together() -> None:
    grid = Grid("table10", tuple(cell for cell in grid_of("table10").cells if cell.arm != "sl" or cell.fraction < 1))
    with pytest.raises(
        UserError, match=r"no cell of table10 matches all of --arm sl --fraction 1.0; leave a filter out"
    ):
        grid.select({"arm": ["sl"], "fraction": [1.0]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table2", "--seeds", "0", "0"], "--seeds 0 0 names one twice"),
        (["table2", "--seeds", "-1"], "--seeds -1 is out of range"),
        (["table2", "--scale", "0"], "--scale 0 is out of range; it should be above 0, up to 1"),
        (["table2", "--nproc", "0"], "--nproc 0 is out of range"),
        (["table2", "--part", "0/3"], "--part 0/3 should be K/N with K from 1 to N"),
        (["table2", "--fraction", "ten"], "invalid float value: 'ten'"),
        (["table2", "--source", "cifar10"], "--source cifar10 should be NAME=PLACE"),
        (["table2", "--source", "cifar=data"], "'cifar' is no set of the paper; did you mean 'cifar10'?"),
        (
            ["table4", "--", "--method.input_ratio", "2"],
            "method.input_ratio (--method.input_ratio): input should be less",
        ),
        (["table1", "--", "--method.loss_ratio", "1"], "method.loss_ratio (--method.loss_ratio): input should be less"),
        (
            ["table5", "--", "--method.mix_ratio", "-1"],
            "method.mix_ratio (--method.mix_ratio): input should be greater",
        ),
        ([], "the following arguments are required: TABLE"),
    ],
)
def test_bad_input_is_one_line_before_any_set_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    place = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]
    own, dashes, changes = arguments, [], []
    if "--" in arguments:
        own, dashes, changes = arguments[:1], ["--"], arguments[2:]
    assert main(["reproduce", *own, *(place if arguments else []), *dashes, *changes]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_told_without_importing_torch() -> None:
    code = "import sys, mixdist.paper.reproduce; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
