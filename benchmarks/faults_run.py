"""The training that faults befall: two ranks under torchrun, started again and again in one run folder."""

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

import torch

from mixdist.engine.checkpoint.manifest import Torn
from mixdist.engine.checkpoint.read import read_parts, verify

RANKS = 2
STEPS = 180
LIMIT_S = 180.0
METHOD: dict[str, Any] = {  # half of the digits, 45 steps an epoch: SSL 1, MIX 2, SL 1 epochs
    "data.fraction": 0.5,
    "method.ssl_epochs": 3,
    "method.sl_epochs": 3,
    "method.mix_ratio": 0.67,
    "optim.ssl.base_lr": 1e-2,
    "optim.sl.base_lr": 1e-2,
    "train.batch": 16,
}
SETTINGS: dict[str, Any] = {
    "model.patch_size": 2,
    "model.options": "{depth: 2, embed_dim: 32, num_heads: 2}",
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
    **METHOD,
    "train.log_every": 1,
    "train.max_skipped": 0,
    "train.precision": "fp32",
    "run.save_every_steps": 15,
    "run.hang_timeout_s": 10,
    "tracking.wandb": "disabled",
}


@dataclass
class Training:
    """A run folder, and the processes that train in it at the moment."""

    data: Path
    folder: Path
    process: subprocess.Popen[str] | None = None
    output: str = ""  #: of the process that ended last
    began: float = 0.0  #: time.time() of the last start

    def start(self, environment: dict[str, str], **settings: Any) -> None:
        """Start the command; it is the same each time but for ``settings`` that do not change what is trained."""
        own = {**SETTINGS, "data.sl": self.data, "run.dir": self.folder, **settings}
        flags = [text for key, value in own.items() for text in (f"--{key}", str(value))]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}"]
        self.began = time.time()
        log = self.folder.with_suffix(".log").open("w")
        self.process = subprocess.Popen(
            [*torchrun, "-m", "mixdist.train", *flags],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.close()

    @property
    def step(self) -> int:
        """The last step that the process of now has a record of in metrics.jsonl, 0 before the first."""
        path = self.folder / "metrics.jsonl"
        with suppress(OSError, ValueError, IndexError):
            if path.stat().st_mtime < self.began:  # left by the one before: a start first cuts it to its checkpoint
                return 0
            lines = path.read_text().splitlines(keepends=True)
            return int(json.loads([line for line in lines if line.endswith("\n")][-1])["step"])
        return 0

    def wait(self, reached: Callable[[], bool]) -> bool:
        """Wait until something is so; False where the process ends before, or after ``LIMIT_S``."""
        assert self.process is not None
        deadline = time.monotonic() + LIMIT_S
        while not reached():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def end(self) -> int | None:
        """Wait for the end; return torchrun's exit code, None where there is none in ``LIMIT_S``."""
        assert self.process is not None
        family = processes_below(self.process.pid)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LIMIT_S)
        self.output = self.folder.with_suffix(".log").read_text()
        deadline = time.monotonic() + 10
        while any(map(alive, family)) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [each for each in family if alive(each)]
        for each in (*left, self.process.pid) if self.process.returncode is None else left:
            with suppress(OSError):
                os.kill(each, signal.SIGKILL)
        return None if left else self.process.returncode

    def saved(self) -> int:
        """Return the step that the next start goes on from: of the newest whole checkpoint."""
        for path in sorted(self.checkpoints(), reverse=True):
            with suppress(Torn):
                return verify(path).step
        return 0

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that have their name, oldest first."""
        return sorted(path for path in (self.folder / "checkpoints").glob("step-*") if path.suffix != ".partial")

    def exit_codes(self) -> set[int]:
        """Return the exit codes that torchrun reported of ranks."""
        return {int(code) for code in re.findall(r"exitcode\s*: (-?\d+)", self.output)}


def end_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a run's newest checkpoint, weights and moments, by their place in it."""
    newest = max(path for path in (folder / "checkpoints").glob("step-*") if path.suffix != ".partial")
    found: dict[str, torch.Tensor] = {}

    def collect(tree: Any, place: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                collect(value, f"{place}.{key}")
        elif isinstance(tree, torch.Tensor):
            found[place] = tree

    parts = read_parts(newest, verify(newest))
    collect({"step": torch.tensor(verify(newest).step), "model": parts["model"], "moments": parts["moments"]}, "")
    return found


def differing(one: Path, other: Path) -> list[str]:
    """Return the places at which two runs do not end bit for bit alike."""
    left, right = end_of(one), end_of(other)
    places = left.keys() | right.keys()
    return sorted(at for at in places if at not in left or at not in right or not torch.equal(left[at], right[at]))


def ranks_of(launcher: int) -> dict[int, int]:
    """Return the processes that train below a launcher: rank -> pid."""
    found = {}
    for process in processes_below(launcher):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            environment = Path(f"/proc/{process}/environ").read_bytes()
        except OSError:  # ended since it was listed
            continue
        variables = dict(one.split(b"=", 1) for one in environment.split(b"\0") if b"=" in one)
        if b"mixdist.train" in command and b"torch.distributed.run" not in command and b"RANK" in variables:
            found[int(variables[b"RANK"])] = process
    return found


def processes_below(ancestor: int) -> list[int]:
    """Return the descendants of a process."""
    parents = {}
    for path in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for each in found:  # grows while it is read
        found += [process for process, parent in parents.items() if parent == each]
    return found[1:]


def alive(process: int) -> bool:
    """Whether a process runs, or is stopped; one that has ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
