"""The run folder, the local truth of a run: what is in it, whether it can be taken up, and starting it afresh."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from socket import gethostname
from typing import Any, Literal, TextIO

from mixdist.config.read import to_yaml
from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.files import write_json, write_text
from mixdist.locks import locked

PATIENCE_S = 5.0  # a process that was killed frees its memory first
PATIENCE_ELSEWHERE_S = 100.0  # NFS 4 leases last 90 s


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """config.yaml: what was asked."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """plan.json: the phases."""
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl: every record, a line each."""
        return self.path / "metrics.jsonl"

    @property
    def task(self) -> Path:
        """task.json: classes, image size and normalisation."""
        return self.path / "task.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def result(self) -> Path:
        """result.json; its presence says that the run is finished."""
        return self.path / "result.json"

    @property
    def reconstruction(self) -> Path:
        """Pictures of what R makes of fixed images."""
        return self.path / "reconstruction.png"

    @property
    def reconstructions(self) -> Path:
        """Folder of the same pictures through training, where tracking.reconstruct_every asks for them."""
        return self.path / "reconstructions"

    @property
    def confusion(self) -> Path:
        """confusion.json: of each class of the test split, what its samples were taken for at the end."""
        return self.path / "confusion.json"

    @property
    def lock(self) -> Path:
        """Held by the one job that trains here, and gone with it."""
        return self.path / "lock"

    @property
    def quarantine(self) -> Path:
        """The samples that could not be read, a line each, where data.bad_samples is "quarantine"."""
        return self.path / "quarantine.jsonl"

    @property
    def not_finite(self) -> Path:
        """What is known of the batch at which a run ended, whose loss or gradient was not finite too often."""
        return self.path / "not-finite.json"

    @property
    def error(self) -> Path:
        """What the first rank that failed by itself left of it; gone when the run goes on."""
        return self.path / "error.json"

    @property
    def stopped(self) -> Path:
        """stopped.json; its presence says that a signal stopped the run, which the same command goes on with."""
        return self.path / "stopped.json"

    @property
    def hang(self) -> Path:
        """Folder of what a watchdog wrote when a rank stood still."""
        return self.path / "hang"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and keep other jobs out of it for the length of the block.

        A process that dies lets go of it. One that is dying is given a moment, and one of another node, whose lock an
        NFS server may keep until its lease ends, longer. Where a file system has no locks, nothing keeps others out.

        Raises:
            UserError: another job trains in this folder; or it cannot be made.
        """
        self._make()
        with ExitStack() as stack:
            file = self._take(stack)
            if file is not None:
                with suppress(OSError):  # a full disk: the lock holds without a name in it
                    os.truncate(file.fileno(), 0)
                    os.write(file.fileno(), f"{gethostname()} {os.getpid()}\n".encode())
            yield

    def _take(self, stack: ExitStack) -> TextIO | None:
        began = time.monotonic()
        while True:
            try:
                return stack.enter_context(locked(self.lock, wait=False))
            except BlockingIOError:
                host, process = self._holder()
            except OSError:
                return None
            if time.monotonic() - began > (PATIENCE_S if host == gethostname() else PATIENCE_ELSEWHERE_S):
                raise UserError(
                    f"run.dir {self.path} is in use by process {process} on {host}; stop that job or wait for its end, "
                    f"or train in another run.dir"
                )
            time.sleep(0.1)

    def _holder(self) -> tuple[str, str]:
        """Return host and process of the job that holds the folder; it may have let go meanwhile."""
        try:
            host, process = self.lock.read_text().split()
        except (OSError, ValueError):
            return gethostname(), "unknown"
        return host, process

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run.dir {self.path} cannot be made: {error.strerror}") from error

    def open(self, resume: Literal["auto", "require", "fresh"]) -> None:
        """Make the folder, and remove an earlier run from it where that was asked for.

        Raises:
            UserError: the path is a file or cannot be made, or `require` and nothing to go on from.
        """
        self._make()
        if resume == "fresh":
            self._remove_checkpoints()
            for folder in (self.hang, self.reconstructions, self.path / "tensorboard"):
                rmtree(folder, ignore_errors=True)
            starts = (self.config, self.plan, self.task, self.path / "metrics.jsonl", self.path / "wandb-id.txt")
            outcomes = (self.result, self.confusion, self.reconstruction, self.stopped)
            for file in (*starts, *outcomes, self.quarantine, self.not_finite, self.error):
                file.unlink(missing_ok=True)
        if resume == "require" and all(path.suffix == ".partial" for path in self.checkpoints.glob("step-*")):
            raise UserError(f"--resume: {self.checkpoints} holds no checkpoint; leave --resume out to start the run")

    def write_start(self, config: Config, plan: dict[str, Any], task: dict[str, Any]) -> None:
        """Write what was asked (config.yaml, which `--config` reads again), what will happen and what is learnt.

        Raises:
            UserError: they cannot be written, as on a full disk.
        """
        try:
            write_text(self.config, to_yaml(config))
            write_json(self.plan, plan)
            write_json(self.task, task)
            for file in (self.stopped, self.error):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"run.dir {self.path} cannot be written: {error.strerror}") from error

    def write_stopped(self, step: int, why: str) -> None:
        """Write that the run is to be started again: a job script reads it, as torchrun hides the exit code."""
        write_json(self.stopped, {"step": step, "why": why})

    def _remove_checkpoints(self) -> None:
        """Remove all checkpoints, half-written ones and the single files of earlier versions included."""
        for path in (
            *self.checkpoints.glob("latest*"),
            *self.checkpoints.glob("best*"),
            *self.checkpoints.glob("step-*"),
        ):
            if path.is_dir() and not path.is_symlink():  # the folder itself stays: it may be a link to another disk
                rmtree(path)
            else:
                path.unlink()
