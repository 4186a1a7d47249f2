"""Train the runs of a grid one after the other, beside other processes that do the same; each run is taken once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from mixdist.child import child
from mixdist.errors import UserError
from mixdist.locks import is_held, locked
from mixdist.paper.jobs import FAILED, LOG, Job, finished_runs
from mixdist.runfolder import RunFolder

State = Literal["finished", "failed", "taken", "open"]
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
TAIL = 1 << 16  # bytes of a log in which the reason of a failure is looked for


@dataclass
class Runner:
    """Runs jobs until none is left, or a signal asks it to stop; the training that it interrupts saves first."""

    jobs: Sequence[Job]
    nproc: int  #: processes of a run
    out: Path  #: of all grids: a run that any of them has finished is not trained again
    say: Callable[[str], None]
    stopped_by: int = 0  #: number of the signal, 0 for none
    _child: subprocess.Popen[bytes] | None = None
    _failed_before: dict[Path, bytes | None] = field(default_factory=dict)

    def run(self) -> dict[Path, State]:
        """Train what is not finished; return the state of every job by its folder.

        A run that failed earlier is tried again, one that fails meanwhile in another process is not.

        Raises:
            UserError: a file of the grid cannot be written, as on a full disk.
        """
        self._failed_before = {job.folder: job.failure for job in self.jobs}
        left = [job for job in self.jobs if not job.finished]
        try:
            with self._signals():
                while left and not self.stopped_by:
                    done = [job for job in left if self._try(job)]
                    if not done:
                        break  # what is left is in other hands
                    left = [job for job in left if job not in done]
        except OSError as error:
            raise UserError(
                f"{error.filename or self.out} cannot be written ({error.strerror}); make room, then the same command "
                f"goes on"
            ) from error
        return {job.folder: self._state(job) for job in self.jobs}

    def _try(self, job: Job) -> bool:
        """Train a job to its end, unless another process has; return False where one is at it, or all is to stop."""
        if self.stopped_by:
            return False
        with ExitStack() as held:
            try:
                held.enter_context(locked(job.lock, wait=False))
            except BlockingIOError:
                return False
            except OSError:
                pass  # a file system without locks: nothing keeps others out but --part
            if _in_use(RunFolder(job.folder).lock):
                return False
            if not job.finished and not self._failed_meanwhile(job):
                self._train(job)
        return not self.stopped_by

    def _train(self, job: Job) -> None:
        place = f"[{self.jobs.index(job) + 1}/{len(self.jobs)}] {job.label}"
        if (other := finished_runs(self.out).get(job.hash)) is not None:
            job.write_cell(stands_for=other)
            self.say(f"{place}: the same run is finished in {other}")
            return
        job.write_cell()
        (job.folder / FAILED).unlink(missing_ok=True)
        RunFolder(job.folder).result.unlink(missing_ok=True)  # a damaged one: the training would take it for its own
        log = job.folder / LOG
        self.say(f"{place}: training; its console is {log}")
        with log.open("ab") as file:
            began = file.tell()
            self._child = subprocess.Popen(
                command(job.flags, self.nproc),
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=_environment(self.nproc),
                start_new_session=True,  # a Ctrl-C reaches it once, by _forward
            )
            if self.stopped_by:  # since the last look: the child has not been told
                self._forward(self.stopped_by, None)
            code = self._child.wait()
            self._child = None
        if self.stopped_by:
            self.say(f"{place}: stopped; the same command goes on from its newest checkpoint")
        elif code != 0 or not job.finished:
            reason = _reason(log, began, code)
            job.write_failure(code, reason)
            self.say(f"{place}: failed: {reason}")
        else:
            result = json.loads(RunFolder(job.folder).result.read_text(encoding="utf-8"))
            score = "" if result["accuracy"] is None else f"{result['accuracy']:.2f} %, "
            self.say(f"{place}: {score}{result['latency_s']:.0f} s of training")

    def _state(self, job: Job) -> State:
        if job.finished:
            return "finished"
        if _in_use(job.lock) or _in_use(RunFolder(job.folder).lock):
            return "taken"
        return "failed" if job.failure is not None else "open"

    def _failed_meanwhile(self, job: Job) -> bool:
        return job.failure not in (None, self._failed_before[job.folder])

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._forward) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        child = self._child
        if child is not None and child.poll() is None:  # torchrun hands on SIGINT and SIGTERM
            child.send_signal(number if number == signal.SIGINT else signal.SIGTERM)


def _in_use(lock: Path) -> bool:
    """Say whether a process holds a lock; where the file system has none, nothing is known to be held."""
    try:
        return is_held(lock)
    except OSError:
        return False


def command(flags: Sequence[str], nproc: int) -> list[str]:
    """Return the command of one training on this machine."""
    training = child("mixdist.train", *flags)
    if nproc == 1:
        return training
    # torchrun's own `-m` would put the current folder in front of what the ranks import from.
    return child("torch.distributed.run", "--standalone", f"--nproc_per_node={nproc}", "--no-python", *training)


def _environment(nproc: int) -> dict[str, str]:
    """Return the environment of a training; its processes share the cores, where the user has not said otherwise."""
    threads = max(1, (os.cpu_count() or 1) // nproc)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}


def _reason(log: Path, began: int, code: int) -> str:
    """Return the line that says why a training failed: its own error, else the last one that it wrote."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(began, size - TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("mixdist: error: ") for line in lines if line.startswith("mixdist: error: ")]
    return own[-1] if own else f"exit code {code}: {lines[-1] if lines else 'it wrote nothing'}"
