"""`mixdist compare` prints a table that fits a console, and writes the page and its Markdown twin."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import three_arms, write_run

from mixdist.errors import UserError
from mixdist.report.compare import main


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
    assert ["mixtraining", "10%", "(143)", "1", "70.0", "32400", "0.00×", "0.2", "1", "33/39/28"] in lines
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
    assert not list(tmp_path.glob("*.partial"))


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
