"""Start the real command line with a hard time limit, and read what it left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mixdist as mixdist_package

TIMEOUT_S = 120  # a start of torchrun takes 10 s on two free cores, several times that on busy ones

# A ViT of two blocks on 8 px images in 16 patches: a step takes milliseconds.
TINY_VIT = {
    "model.patch_size": 2,
    "model.options": "{depth: 2, embed_dim: 32, num_heads: 2}",
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
}
QUIET = {"tracking.wandb": "disabled", "train.precision": "fp32", "train.log_every": 1}


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that mixdist itself wrote about errors."""
        return [line for line in self.err.splitlines() if "mixdist: error:" in line]

    @property
    def own_tracebacks(self) -> list[str]:
        """The lines of tracebacks that pass through our code; torchrun's summary of a failed job has none."""
        package = str(Path(mixdist_package.__file__).parent)
        return [line for line in self.err.splitlines() if line.lstrip().startswith(f'File "{package}')]

    @property
    def exit_codes(self) -> list[int]:
        """The exit codes of the ranks, as torchrun's summary lists them."""
        return [int(code) for code in re.findall(r"exitcode\s*: (-?\d+)", self.err)]


def environment() -> dict[str, str]:
    """Return this environment with one thread a process, without what torchrun, W&B or a GPU would add."""
    dropped = ("WANDB", "RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command in ``folder``."""
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill(process: subprocess.Popen[str]) -> Done:
    """Kill a command and all processes that it started, as a machine that goes down does.

    Not by process group: torchrun gives each of its workers a session of its own.
    """
    for each in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return Done(-signal.SIGKILL, *process.communicate())


def family(ancestor: int) -> list[int]:
    """Return a process and its descendants."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [ancestor]
    for each in found:  # grows while it is read
        found += [process for process, parent in parents if parent == each]
    return found


def run(command: list[str], folder: Path, timeout_s: float = TIMEOUT_S) -> Done:
    """Run a command to its end; one that has not ended in time is killed and fails the test."""
    process = start(command, folder)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        killed = kill(process)
        raise AssertionError(f"no end after {timeout_s} s: {command}\n{killed.out}\n{killed.err}") from None
    return Done(process.returncode, out, err)


def run_until(command: list[str], folder: Path, reached: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> Done:
    """Run a command and kill it as soon as ``reached``; the test fails if that is not before its end."""
    process = start(command, folder)
    deadline = time.monotonic() + timeout_s
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            ended = kill(process) if process.poll() is None else Done(process.returncode, *process.communicate())
            raise AssertionError(f"not reached: {command}\n{ended.out}\n{ended.err}")
        time.sleep(0.02)  # between two looks, so that looking does not take a core from what is looked at
    return kill(process)


def wait_for(reached: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until something is so; the test fails where the process ends before, or after ``TIMEOUT_S``."""
    deadline = time.monotonic() + TIMEOUT_S
    while not reached():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "not reached"
        time.sleep(0.02)  # between two looks


def mixdist(*arguments: str) -> list[str]:
    """Return the `mixdist` command of this interpreter's environment."""
    return [str(Path(sys.executable).with_name("mixdist")), *arguments]


def torchrun(ranks: int, *arguments: str) -> list[str]:
    """Return a command that starts ``ranks`` processes on this machine; what follows is what each of them runs."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *arguments]


def train(ranks: int, settings: dict[str, Any], *more: str) -> list[str]:
    """Return the command that trains with the settings on ``ranks`` processes, without torchrun for one."""
    arguments = ["-m", "mixdist.train", *flags(settings), *more]
    return [sys.executable, *arguments] if ranks == 1 else torchrun(ranks, *arguments)


def train_here(settings: dict[str, Any], *more: str) -> int:
    """Train by the command's own entry in this process, which saves the imports; return the exit code."""
    from mixdist.cli import main

    return main(["train", *flags(settings), *more])


def flags(settings: dict[str, Any]) -> list[str]:
    """Return settings as command-line flags."""
    return [text for key, value in settings.items() for text in (f"--{key}", str(value))]


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a run's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted(path for path in (folder / "checkpoints").glob("step-*") if path.suffix != ".partial")


def result(folder: Path) -> dict[str, Any]:
    """Return a run's result.json."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found
