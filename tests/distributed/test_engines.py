"""DeepSpeed ZeRO 0 to 3 and FSDP2 train what DDP trains, on real ranks, and hand it on whole."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import engine_ranks
import launching
import pytest
import torch
from engine_ranks import MATRIX, POISONED, SETTINGS, UPDATES
from launching import QUIET, TINY_VIT, checkpoints, records, run, run_until, torchrun, train, train_here

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
pytestmark = [pytest.mark.minutes, pytest.mark.distributed, pytest.mark.slow]

Rows = list[dict[str, Any]]
ON_TWO = ("plain", "accumulated-clipped", "offload", "resnet")  # which several tests look at


def compared(ranks: int, packed_sets: Path, folder: Path, *names: str) -> dict[str, Rows]:
    """Return what engine_ranks found on ``ranks`` processes."""
    script = str(Path(engine_ranks.__file__))
    done = run(
        torchrun(ranks, script, str(packed_sets / "tiny"), str(folder / "answer.json"), *names), folder, timeout_s=400
    )
    assert done.code == 0, done.err
    found: dict[str, Rows] = json.loads((folder / "answer.json").read_text())
    return found


@pytest.fixture(scope="module")
def on_two(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    return compared(2, packed_sets, tmp_path_factory.mktemp("two"), *ON_TWO)


def check(rows: Rows, tolerance: float = 1e-6) -> None:
    for row in rows:
        where = f"{row['engine']}, {row['phase']}: {row}"
        assert row["updates"][0] == row["updates"][1], where
        assert max(row["parameters"], row["loss"], row["norm"]) <= tolerance, where
        assert row["moments"] <= 10 * tolerance, where


def check_setting(found: dict[str, Rows], name: str) -> None:
    _, engines, phases = SETTINGS[name]
    rows = found[name]
    assert [(row["phase"], row["engine"]) for row in rows] == [
        (phase, engine) for phase in phases for engine in ("ddp", *engines)
    ]
    check(rows)


@pytest.mark.parametrize("name", ["plain", "accumulated-clipped", "offload"])
def test_after_5_updates_parameters_moments_losses_norms_and_counts_are_those_of_ddp(
    on_two: dict[str, Rows], name: str
) -> None:
    check_setting(on_two, name)


def test_buffers_and_parameters_of_a_resnet_agree_as_far_as_batchnorm_lets_rounding_alone(
    on_two: dict[str, Rows],
) -> None:
    check(on_two["resnet"], tolerance=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_with_and_without_accumulation_and_clipping_any_number_of_ranks_agrees(
    packed_sets: Path, tmp_path: Path, ranks: int
) -> None:
    names = [name for name in MATRIX if ranks != 2 or name not in ON_TWO]
    found = compared(ranks, packed_sets, tmp_path, *names)
    for name in names:
        check_setting(found, name)


def test_a_gradient_that_is_not_finite_on_one_rank_moves_no_rank_under_any_engine(on_two: dict[str, Rows]) -> None:
    expected = [step != POISONED for step in range(UPDATES)]
    rows = [row for row in on_two["plain"] if row["phase"] == "mix"]
    assert len(rows) == 6
    for row in rows:
        assert row["applied"] == expected, row["engine"]


def test_moments_of_ddp_are_taken_up_bit_for_bit_and_moved_on_from(on_two: dict[str, Rows]) -> None:
    rows = [row for row in on_two["accumulated-clipped"] if row["phase"] == "mix"]
    assert len(rows) == 6
    first = rows[0]["taken_up"]
    for row in rows:
        assert row["taken_up"]["same"], row["engine"]
        assert row["taken_up"]["step"] == UPDATES + 1
        assert row["taken_up"]["squares"] == pytest.approx(first["squares"], rel=1e-6)
        assert row["taken_up"]["movement"] == pytest.approx(first["movement"], rel=1e-5)


# The real command line

RUN = {
    **QUIET,
    **TINY_VIT,
    "method.ssl_epochs": 2,
    "method.sl_epochs": 2,
    "optim.carry_ssl_to_mix": True,
    "train.batch": 48,
    "train.micro_batch": 16,
}


def numbers(folder: Path) -> list[list[float]]:
    """Return the columns of a run that no layout changes, accuracy where there is one."""
    columns = ("step", "loss", "lr", "grad_norm", "accuracy")
    return [[record[key] for key in columns if record[key] is not None] for record in records(folder)]


def test_a_run_goes_on_under_another_engine_on_another_number_of_ranks(packed_sets: Path, tmp_path: Path) -> None:
    settings = {**RUN, "data.sl": packed_sets / "tiny"}
    assert train_here({**settings, "run.dir": tmp_path / "ddp"}) == 0
    zero = {**settings, "run.dir": "run", "parallel.strategy": "deepspeed", "parallel.zero_stage": 2}
    cut = run_until(train(2, zero), tmp_path, lambda: len(checkpoints(tmp_path / "run")) >= 1)
    assert cut.errors == []
    assert train_here({**settings, "run.dir": tmp_path / "run", "parallel.strategy": "fsdp"}) == 0
    torch.distributed.destroy_process_group()  # of one, as the end of a process does
    for found, expected in zip(numbers(tmp_path / "run"), numbers(tmp_path / "ddp"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_check_engines_tells_the_engines_apart_and_agrees(packed_sets: Path, tmp_path: Path) -> None:
    settings = launching.flags({**RUN, "data.sl": packed_sets / "tiny", "run.dir": "untouched"})
    done = run(launching.mixdist("check", "engines", "--ranks", "1", "--updates", "2", *settings), tmp_path)
    assert done.code == 0, done.err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if line.startswith("│")]
    engines = ("ddp", "deepspeed, ZeRO 0", "deepspeed, ZeRO 1", "deepspeed, ZeRO 2", "deepspeed, ZeRO 3", "fsdp")
    assert [row[:2] for row in rows] == [[engine, phase] for engine in engines for phase in ("ssl", "mix", "sl")]
    assert {row[-1] for row in rows} == {"reference", "equal"}
    assert "2 updates a phase on 1 rank; equal: relative differences to ddp of 1e-06 at most" in done.out
    assert not (tmp_path / "untouched").exists()


def test_ranks_that_srun_started_find_each_other_by_its_variables_alone(packed_sets: Path, tmp_path: Path) -> None:
    settings = {
        **RUN,
        "data.sl": packed_sets / "tiny",
        "run.dir": "run",
        "method.arm": "sl",
        "parallel.strategy": "fsdp",
    }
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),  # decides the port
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NODEID": "0",
    }
    command = [sys.executable, "-m", "mixdist.train", *launching.flags(settings)]
    ranks = [
        launching.start(
            ["env", *(f"{k}={v}" for k, v in {**slurm, "SLURM_PROCID": r, "SLURM_LOCALID": r}.items()), *command],
            tmp_path,
        )
        for r in ("0", "1")
    ]
    ended = [(*each.communicate(timeout=launching.TIMEOUT_S), each.returncode) for each in ranks]
    assert [code for *_, code in ended] == [0, 0], ended
    assert "2 processes on cpu, fsdp" in ended[0][0]
    assert ended[1][0] == ""
    assert launching.result(tmp_path / "run")["world_size"] == 2
