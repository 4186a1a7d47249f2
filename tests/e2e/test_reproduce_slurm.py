"""launch/reproduce.sbatch run by bash, with stand-ins for mixdist and scontrol that write down what they are told."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from launching import wait_for

SCRIPT = Path(__file__).parents[2] / "launch" / "reproduce.sbatch"
ARRAY = {
    "SLURM_ARRAY_JOB_ID": "7",
    "SLURM_ARRAY_TASK_ID": "11",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "12",
    "SLURM_ARRAY_TASK_STEP": "1",
    "SLURM_ARRAY_TASK_COUNT": "3",
}


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """The environment of a job whose mixdist ends at once, with 75 where the variable FATE says so after USR1."""
    bodies = {
        "mixdist": (
            'echo "$@" > told; [ "$FATE" = 0 ] && exit 0\n'
            "tail -f /dev/null & trap 'kill $!; exit 75' USR1; touch ready; wait"
        ),
        "scontrol": 'echo "$@" > requeued',
    }
    for name, body in bodies.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return {**os.environ, **ARRAY, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "4"}


def test_a_task_takes_its_part_of_the_runs(tools: dict[str, str], tmp_path: Path) -> None:
    command = ["bash", str(SCRIPT), "table2", "--dataset", "cifar10", "--", "--train.precision", "bf16"]
    done = subprocess.run(command, cwd=tmp_path, env={**tools, "FATE": "0"}, check=False)
    assert done.returncode == 0
    told = "reproduce --part 2/3 --nproc 4 table2 --dataset cifar10 -- --train.precision bf16\n"
    assert (tmp_path / "told").read_text() == told
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(
    ("array", "part"),
    [
        ({"ID": "7", "MIN": "1", "MAX": "11", "STEP": "2", "COUNT": "6"}, "4/6"),  # --array=1-11:2
        ({"ID": "7", "MIN": "3", "MAX": "7", "STEP": "1", "COUNT": "2"}, "1/1"),  # --array=3,7
        ({"ID": "5", "MIN": "5", "MAX": "5", "STEP": "1", "COUNT": "1"}, "1/1"),  # --array=5
    ],
)
def test_an_array_with_steps_or_gaps_leaves_no_run_out(
    tools: dict[str, str], tmp_path: Path, array: dict[str, str], part: str
) -> None:
    environment = {**tools, **{f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}, "FATE": "0"}
    subprocess.run(["bash", str(SCRIPT), "table2"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "told").read_text() == f"reproduce --part {part} --nproc 4 table2\n"


def test_before_the_time_limit_the_run_saves_and_the_task_is_requeued(tools: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "table2"], cwd=tmp_path, env={**tools, "FATE": "75"}, stdin=subprocess.DEVNULL
    )
    wait_for((tmp_path / "ready").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 75
    assert (tmp_path / "requeued").read_text() == "requeue 7_11\n"


def test_without_an_array_it_says_how_to_start_it(tmp_path: Path) -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(
        ["bash", str(SCRIPT), "table2"], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "sbatch --array=1-N launch/reproduce.sbatch TABLE" in done.stderr
