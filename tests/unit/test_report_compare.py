"""`mixdist compare` prints a table that fits a console, and writes the page and its Markdown twin."""

import csv
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from fake_runs import three_arms, write_run
from PIL import Image

from mixdist.errors import UserError
from mixdist.report.collect import collect
from mixdist.report.compare import main
from mixdist.report.published import published
from mixdist.report.summarise import group_runs


def test_the_table_fits_80_columns_and_is_plain_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    three_arms(tmp_path)
    write_run(tmp_path / "m", accuracy=70.0, slowness=900.0, config={"method.mix_ratio": 0.25})
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    assert "\x1b" not in output
    lines = [line.split() for line in output.splitlines()]
    assert ["mixtraining", "10%", "(143)", "1", "70.0", "32400", "0.00×", "0.2", "1", "9.0"] in lines
    assert ["mix_ratio=0.25"] in lines
    assert output.startswith("mixtraining")
    assert "note: One seed only" in output


def test_nothing_is_written_without_out(tmp_path: Path) -> None:
    three_arms(tmp_path / "runs", seeds=1)
    before = sorted(tmp_path.rglob("*"))
    main([str(tmp_path)])
    assert sorted(tmp_path.rglob("*")) == before


def test_out_writes_the_page_and_markdown_of_the_same_name(tmp_path: Path) -> None:
    three_arms(tmp_path / "runs", seeds=1)
    main([str(tmp_path / "runs"), "--out", str(tmp_path / "found.html")])
    assert (tmp_path / "found.html").read_text().startswith("<!DOCTYPE html>")
    assert (tmp_path / "found.md").read_text().startswith("# Run comparison")
    assert not list(tmp_path.rglob("*.partial"))
    names = {path.name for path in (tmp_path / "found-figures").iterdir()}
    assert {path.removesuffix(".svg") + ".png" for path in names if path.endswith(".svg")} | names == names
    assert {"accuracy-time.svg", "throughput-time.png", "losses-2.svg"} <= names
    for path in (tmp_path / "found-figures").glob("*.svg"):
        assert ET.fromstring(path.read_text()).get("aria-label")
        assert "var(" not in path.read_text()
    for path in (tmp_path / "found-figures").glob("*.png"):
        assert min(Image.open(path).size) > 200


def test_the_csv_has_a_row_a_group_in_full_precision_and_the_settings_that_differ(tmp_path: Path) -> None:
    three_arms(tmp_path / "runs")
    write_run(tmp_path / "m", accuracy=70.123456, config={"method.mix_ratio": 0.25})
    main([str(tmp_path / "runs"), str(tmp_path / "m"), "--out", str(tmp_path / "found.html")])
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seeds"], row["method.mix_ratio"]) for row in rows] == [
        ("sl", "0 1", ""), ("ssl+sl", "0 1", ""), ("mixtraining", "0", "0.25"), ("mixtraining", "0 1", "0.5")
    ]  # fmt: skip
    assert float(rows[2]["accuracy_mean"]) == 70.123456
    assert rows[2]["accuracy_deviation"] == ""
    assert float(rows[1]["speed_up"]) == 1
    assert float(rows[1]["device_hours"]) == pytest.approx((44 + 1.5 + 0.2) / 3600)


def test_runs_on_other_data_are_left_out_with_the_reason_and_strict_makes_that_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three_arms(tmp_path / "runs", seeds=1)
    write_run(tmp_path / "runs" / "elsewhere", result={"data": "cifar10"})
    assert main([str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr()
    assert "elsewhere is left out: trained and tested on cifar10, 3 other runs on digits" in shown.err
    assert "note: One seed only" in shown.out
    with pytest.raises(UserError, match=r"--strict: 1 run cannot be compared \(.*elsewhere: trained and tested"):
        main([str(tmp_path / "runs"), "--strict"])


@pytest.mark.parametrize("damage", ["unfinished", "version"])
def test_strict_refuses_what_is_else_left_out(tmp_path: Path, damage: str) -> None:
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad", result={"version": 99})
    if damage == "unfinished":
        (bad / "result.json").unlink()
    assert main([str(tmp_path)]) == 0
    with pytest.raises(UserError, match=f"--strict: 1 run cannot be compared .*bad: .*{damage}"):
        main([str(tmp_path), "--strict"])


def test_the_papers_figure_stands_where_a_row_has_these_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    config = {"method.ssl_epochs": 100, "method.sl_epochs": 100}
    three_arms(tmp_path, seeds=1, config=config, result={"data": "CIFAR-10", "backbone": "resnet18", "fraction": 0.1})
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    table = output[: output.index(" against sl:")].splitlines()
    found = {line.split()[0]: line for line in table if "/" in line}
    assert "58.9 /" in found["sl"]
    assert "64.4 / 1.00×" in found["ssl+sl"]
    assert "67.5 / 1." in found["mixtraining"]


def test_runs_on_other_numbers_of_ranks_are_held_against_the_fewest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ranks, slowness in ((2, 1.0), (1, 1.0), (8, 1.25)):  # latency 18, 36 and 5.625 s
        write_run(tmp_path / f"r{ranks}", accuracy=70.0 + ranks / 8, world_size=ranks, slowness=slowness)
    write_run(tmp_path / "other", "sl", world_size=4)
    assert main([str(tmp_path), "--by", "world_size", "--out", str(tmp_path / "r.html")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in (
        ["mixtraining", "1", "36.0", "1.00×", "100%"],
        ["mixtraining", "2", "18.0", "2.00×", "100%", "+0.12"],
        ["mixtraining", "8", "5.6", "6.40×", "80%", "+0.88"],
    ):
        assert line in lines
        assert f"| {' | '.join(line[:5])} |" in (tmp_path / "r.md").read_text()
    assert "Over ranks" in (tmp_path / "r.html").read_text()


def test_settings_that_are_no_row_of_the_paper_get_no_figure_of_it(tmp_path: Path) -> None:
    paper = {"data": "cifar10", "backbone": "resnet18", "fraction": 0.1}
    epochs = {"method.ssl_epochs": 100, "method.sl_epochs": 100}
    for name, config in {
        "same": epochs,
        "epochs": {**epochs, "method.sl_epochs": 99},
        "ratio": {**epochs, "method.mix_ratio": 0.33},
        "ssl": {**epochs, "data.ssl": "data/other"},
        "fewer": {**epochs, "data.fraction": 0.2},
        "masking": {**epochs, "method.ssl_masking": "input"},
        "samples": {**epochs, "method.mix_samples": "all"},
        "tasks": {**epochs, "data.tasks": {"digits": {"path": "data/digits", "rate": 1.0}}},
    }.items():
        told = {"tasks": {"digits": {"accuracy": 90.0}}} if name == "tasks" else {}
        write_run(
            tmp_path / name, config=config, result={**paper, "fraction": config.get("data.fraction", 0.1), **told}
        )
    found = {group.runs[0].folder.name: published(group) for group in group_runs(collect([str(tmp_path)]).runs)}
    assert [name for name, figure in found.items() if figure] == ["same"]
    assert found["same"].accuracy == 67.53


def test_a_run_that_is_left_out_is_a_warning_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "good")
    (write_run(tmp_path / "[red]killed") / "result.json").unlink()
    main([str(tmp_path)])
    shown = capsys.readouterr()
    assert "[red]killed is left out: unfinished" in shown.err
    assert "killed" not in shown.out


@pytest.mark.parametrize(
    ("out", "message"),
    [("report.pdf", r"should end in \.html"), ("absent/report.html", r"cannot be written: No such file")],
)
def test_an_out_that_cannot_be_written_is_named(tmp_path: Path, out: str, message: str) -> None:
    write_run(tmp_path / "a")
    with pytest.raises(UserError, match=message):
        main([str(tmp_path / "a"), "--out", str(tmp_path / out)])


def test_the_console_table_needs_neither_matplotlib_nor_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    code = (
        "import sys; from mixdist.report.compare import main; main(sys.argv[1:]); "
        "sys.exit(bool({'matplotlib', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
