"""`mixdist reproduce gradient-alignment`: trains or reads runs, and sets their cosines beside the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import launching
import pytest
from launching import QUIET, TINY_VIT

from mixdist.errors import UserError
from mixdist.paper import gradient_alignment

SHORT = {**QUIET, **TINY_VIT, "method.ssl_epochs": 2, "method.sl_epochs": 2, "train.batch": 16}


def write_records(folder: Path, *cosines: tuple[str, float | None]) -> Path:
    """Write a metrics.jsonl: of each record its phase and the first cosine; the others are 0.1 and 0.2 more."""
    folder.mkdir()
    with (folder / "metrics.jsonl").open("w") as file:
        for step, (phase, first) in enumerate(cosines, 1):
            values = [None] * 3 if first is None else [first, first + 0.1, first + 0.2]
            record = {
                "step": step,
                "epoch": 1,
                "phase": phase,
                **dict(zip(gradient_alignment.PAPER, values, strict=True)),
            }
            file.write(json.dumps(record) + "\n")
    return folder


@pytest.mark.slow
def test_the_command_trains_a_run_and_prints_its_cosines_beside_the_papers(packed_sets: Path, tmp_path: Path) -> None:
    settings = {**SHORT, "data.sl": packed_sets / "tiny", "run.dir": "run", "train.align_every": 2}
    command = launching.mixdist("reproduce", "gradient-alignment", "--json", "out.json", *launching.flags(settings))
    done = launching.run(command, tmp_path)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["paper"] == {"cos_ssl_sl": 0.018, "cos_ssl_mix": 0.791, "cos_sl_mix": 0.598}
    with_cosines = [record for record in launching.records(tmp_path / "run") if record["cos_ssl_sl"] is not None]
    assert {record["phase"] for record in with_cosines} == {"mix", "sl"}
    of_mix = [record["cos_ssl_mix"] for record in with_cosines if record["phase"] == "mix"]
    assert found["means"]["mix"]["cos_ssl_mix"] == pytest.approx(sum(of_mix) / len(of_mix))
    assert "train.align_every: cosines over backbone.net.blocks.1.mlp.fc2.weight" in done.out
    (row,) = [line for line in done.out.splitlines() if "SSL and MIX" in line]
    assert f"{found['means']['mix']['cos_ssl_mix']:.3f}" in row
    assert "0.791" in row


def test_runs_are_read_and_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_records(tmp_path / "first", ("ssl", None), ("mix", 0.1), ("mix", 0.3), ("sl", 0.5))
    second = write_records(tmp_path / "second", ("mix", 0.5))
    for folder in (first, second):
        (folder / "result.json").write_text("{}")
    out = tmp_path / "out.json"
    assert gradient_alignment.main(["--run", str(first), str(second), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["means"]["mix"] == pytest.approx({"cos_ssl_sl": 0.3, "cos_ssl_mix": 0.4, "cos_sl_mix": 0.5})
    assert found["means"]["sl"]["cos_ssl_sl"] == 0.5
    assert found["runs"][str(second)] == {
        "mix": [{"step": 1, "epoch": 1, "cos_ssl_sl": 0.5, "cos_ssl_mix": 0.6, "cos_sl_mix": 0.7}], "sl": [],
    }  # fmt: skip
    assert found["ranges"]["mix"]["cos_ssl_sl"] == [0.1, 0.5]
    assert found["unfinished"] == {}
    said = capsys.readouterr().out
    assert "means (least to greatest) over 3 records of the mix phase, 1 record of the sl phase, of 2 runs" in said
    (row,) = [line for line in said.splitlines() if "SSL and SL" in line]
    assert "0.300 (0.100 to 0.500)" in row
    assert "(0.500 to" not in row  # one record has no spread
    assert "not finished" not in said


def test_of_a_run_that_is_not_finished_it_is_said_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped, killed = (write_records(tmp_path / name, ("mix", 0.1), ("mix", 0.3)) for name in ("stopped", "killed"))
    (stopped / "stopped.json").write_text('{"step": 3, "why": "SIGTERM"}')
    out = tmp_path / "out.json"
    assert gradient_alignment.main(["--run", str(stopped), str(killed), "--json", str(out)]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"note: {stopped} is not finished: it stands at step 3" in said
    assert f"note: {killed} is not finished: it stands at step 2" in said
    assert json.loads(out.read_text())["unfinished"] == {str(stopped): 3, str(killed): 2}


def test_a_mistake_is_named(tmp_path: Path) -> None:
    told = write_records(tmp_path / "told", ("mix", 0.5))
    with pytest.raises(UserError, match=r"--json .*nowhere.out\.json cannot be written: No such file or directory"):
        gradient_alignment.main(["--run", str(told), "--json", str(tmp_path / "nowhere" / "out.json")])
    bare = write_records(tmp_path / "bare", ("mix", None))
    with pytest.raises(UserError, match=r"bare has no cosines: train it with --train.align_every 10, in an arm"):
        gradient_alignment.main(["--run", str(bare)])
    with pytest.raises(UserError, match=r"absent.metrics.jsonl cannot be read: No such file or directory"):
        gradient_alignment.main(["--run", str(tmp_path / "absent")])
    with pytest.raises(UserError, match=r"--train.batch is a setting of training, but --run reads runs"):
        gradient_alignment.main(["--run", str(bare), "--train.batch", "3"])
    (bare / "metrics.jsonl").write_text("{")
    with pytest.raises(UserError, match="holds a line that is no record"):
        gradient_alignment.main(["--run", str(bare)])


@pytest.mark.parametrize("settings", [["--method.arm=sl"], ["--method.arm=ssl+sl", "--method.sl_epochs=0"]])
def test_a_run_that_never_trains_both_heads_is_refused_before_it_is_trained(
    tmp_path: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_alignment.train, "main", lambda argv: pytest.fail("it trains"))
    with pytest.raises(UserError, match="never trains both heads, so there are no cosines; use mixtraining or ssl"):
        gradient_alignment.main([f"--data.sl={tmp_path}", *settings])
