"""The real wandb: an offline run, and servers that cannot be reached, each in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CANARY = "canary-5b1c"
SCRIPT = """
import socket, sys
from dataclasses import replace
from pathlib import Path
from mixdist.engine.record import StepRecord
from mixdist.tracking import PhaseInfo, RunInfo
from mixdist.tracking.wandb_sink import WandbSink

socket.gethostname = lambda: sys.argv[5]
folder, mode, init_timeout_s, close_timeout_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
record = StepRecord(
    step=1, phase="ssl", epoch=1, phase_epoch=1, samples=64, loss=0.5, loss_ssl=0.5, loss_sl=None, lr=3.1e-4,
    lr_reconstruct=3.1e-4, lr_classify=None, alpha=1.0, grad_norm=1.0, images_per_s=5432.1, data_wait=0.004,
    memory_mb=10.0, latency_s=0.1,
)
sink = WandbSink(mode, "project", None, print, init_timeout_s, close_timeout_s)
config = {"data": {"sl": str(folder.parent / "set")}, "run": {"dir": str(folder)}}
sink.start(RunInfo(folder, config, (PhaseInfo("ssl", 1, 3),), 0, "seed0", "digits", "mixtraining"))
for step in (1, 2, 3):
    sink.log(replace(record, step=step, samples=64 * step))
sink.finish({
    "accuracy": 61.2, "top5": None, "latency_s": 1.0, "evaluation_s": 0.5, "checkpoint_s": 0.5, "setup_s": 1.0,
    "wall_s": 3.0, "samples": 64, "images_per_s": 64.0, "memory_mb": 10.0, "skipped": 0, "bad_samples": 0,
    "parameters": 7, "git": None, "world_size": 1, "phases": {"ssl": {"latency_s": 1.0, "images_per_s": 64.0}},
})
"""


def train(tmp_path: Path, mode: str, init_timeout_s: float, close_timeout_s: float = 30.0, **env: str) -> str:
    """Run the script and return what it printed; it has to leave with 0 in time."""
    (folder := tmp_path / CANARY / "run").mkdir(parents=True)
    (home := tmp_path / "home").mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "NETRC"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), mode, str(init_timeout_s), str(close_timeout_s), CANARY],
        env=clean | {"HOME": str(home), "SECRET": CANARY} | env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def offline_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / CANARY / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    return file


@pytest.fixture
def mute_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_offline_run_is_kept_for_wandb_sync_and_holds_nothing_private(tmp_path: Path) -> None:
    printed = train(tmp_path, "offline", 20)
    file = offline_file(tmp_path)
    assert printed == f"W&B: offline; upload it with: mixdist sync {file.parents[2]}\n"
    content = file.read_bytes()
    assert b"train/loss" in content
    assert CANARY.encode() not in content  # from argv, the environment, the host's name, and the paths of run and data
    assert str(tmp_path).encode() not in content
    assert not list((file.parent / "files").iterdir())


def test_online_without_a_key_goes_offline_without_a_question(tmp_path: Path) -> None:
    assert train(tmp_path, "online", 20).startswith("W&B: offline (No API key configured")
    assert b"train/loss" in offline_file(tmp_path).read_bytes()


def test_a_dead_server_turns_the_run_offline(tmp_path: Path) -> None:
    printed = train(tmp_path, "online", 2, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="a" * 40)
    assert printed.startswith("W&B: offline (")
    assert "mixdist sync" in printed
    assert printed.count("\n") == 1
    assert b"train/loss" in offline_file(tmp_path).read_bytes()


def test_a_server_that_never_answers_turns_the_run_offline(tmp_path: Path, mute_server: str) -> None:
    printed = train(tmp_path, "online", 2, WANDB_BASE_URL=mute_server, WANDB_API_KEY="a" * 40)
    assert printed.startswith("W&B: offline (")
    assert b"train/loss" in offline_file(tmp_path).read_bytes()


def test_a_run_that_ends_while_the_server_is_waited_for_ends_in_time(tmp_path: Path, mute_server: str) -> None:
    printed = train(tmp_path, "online", 6, 3, WANDB_BASE_URL=mute_server, WANDB_API_KEY="a" * 40)
    assert printed == "W&B did not finish in 3 s and is left\n"
