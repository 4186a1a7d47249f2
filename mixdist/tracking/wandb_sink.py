"""Weights & Biases as a place for records that never stops, slows or hangs the training.

All calls into wandb happen in one background thread. The first that fails ends W&B for this run, with one line for
the user; what could not be sent is counted. The run folder has every record whatever happens here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mixdist.engine.record import StepRecord
from mixdist.files import write_text
from mixdist.tracking.background import Background
from mixdist.tracking.privacy import shareable
from mixdist.tracking.tracker import RunInfo

RUN_ID = "wandb-id.txt"
_AXES = ("step", "epoch", "phase_epoch", "phase", "samples")
_EVALUATIONS = ("accuracy", "top5", "knn", "linear_probe", "feature_spread", "feature_rank", "collapsed")


class WandbSink:
    """Sends records to W&B, or keeps them for ``wandb sync`` where W&B cannot be reached.

    Args:
        mode: "online" or "offline". Online becomes offline, with a line, without a login or an answer of the server.
        project: W&B project.
        entity: W&B entity; None is the user's own.
        message: takes one line for the user; called from the background thread.
        init_timeout_s: how long to wait for the server before the run goes on offline. wandb's own exit hook waits
            this long too where the process ends before, so it belongs below ``close_timeout_s``.
        close_timeout_s: how long ``finish`` waits at most.
        capacity: records that may wait to be sent; what comes on top is dropped and counted.
    """

    def __init__(
        self,
        mode: Literal["online", "offline"],
        project: str,
        entity: str | None,
        message: Callable[[str], None],
        init_timeout_s: float = 20.0,
        close_timeout_s: float = 30.0,
        capacity: int = 1000,
    ) -> None:
        self._mode = mode
        self._project = project
        self._entity = entity
        self._message = message
        self._init_timeout_s = init_timeout_s
        self._close_timeout_s = close_timeout_s
        self._capacity = capacity
        self._thread: Background | None = None
        self._given_up = False
        self._dropped = 0  # records that found the queue full; only the training thread writes it
        self._unsent = 0  # records that W&B refused or that came when it was off; only the background thread writes it
        self._run: Any = None  # wandb's run; None before it is open and after the first failure
        self._sync = ""  # the command that uploads what W&B does not have

    def start(self, info: RunInfo) -> None:
        """Begin to open the run, in the background."""
        self._folder = info.folder
        self._thread = Background("wandb", self._capacity)
        self._thread.offer(partial(self._guarded, partial(self._open, info)))

    def log(self, record: StepRecord) -> None:
        """Queue the record and return at once."""
        if self._thread is None:
            raise RuntimeError("WandbSink.log before start")
        if not self._thread.offer(partial(self._guarded, partial(self._send, record))):
            self._dropped += 1

    def message(self, text: str) -> None:
        """Do nothing: W&B gets records only."""

    def finish(self, result: dict[str, Any] | None) -> None:
        """Close the run; give up, with a line, where that takes longer than ``close_timeout_s``."""
        if self._thread is None:
            return
        closed = self._thread.close(partial(self._guarded, partial(self._close, result)), self._close_timeout_s)
        self._given_up = True
        if not closed:
            self._message(f"W&B did not finish in {self._close_timeout_s:g} s and is left{self._how_to_upload()}")
        elif lost := self._dropped + self._unsent:
            self._message(f"W&B did not get {lost} records; {self._folder} has all of them")

    def _guarded(self, call: Callable[[], None]) -> None:
        """Run one piece of work; its error ends W&B for this run instead of the training."""
        try:
            call()
        except Exception as error:
            self._run = None
            self._say(f"W&B is off for the rest of this run ({_one_line(error)}){self._how_to_upload()}")

    def _say(self, text: str) -> None:
        if not self._given_up:  # else the user has been told already, and the process is about to end
            self._message(text)

    def _how_to_upload(self) -> str:
        return f"; upload what it lacks with: {self._sync}" if self._sync else ""

    def _open(self, info: RunInfo) -> None:
        # Reports of errors inside wandb would carry stack traces, and with them local paths, to its makers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        wandb.setup(settings=wandb.Settings(silent=True))  # silent: no banner, and no question for a key
        mode, reason = self._mode, ""
        try:
            run = self._init(wandb, info, mode)
        except Exception as error:
            if mode == "offline" or self._given_up:
                raise
            mode, reason = "offline", f" ({_one_line(error)})"
            with contextlib.suppress(SystemExit):  # teardown exits where wandb's own process failed
                wandb.teardown()  # else the id of the failed attempt stays in use
            run = self._init(wandb, info, mode)
        self._run = run
        self._sync = "wandb sync " + shlex.quote(str(info.folder / "wandb" / Path(run.dir).parent.name))
        self._say(f"W&B: {run.url}" if mode == "online" else f"W&B: offline{reason}; upload it with: {self._sync}")

    def _init(self, wandb: Any, info: RunInfo, mode: str) -> Any:
        settings = wandb.Settings(
            init_timeout=self._init_timeout_s,
            finish_timeout=self._close_timeout_s * 2 / 3,  # shorter than finish waits, so that wandb gives up first
            finish_timeout_raises=True,
            console="off",
            silent=True,
            host="",  # else the name of this machine
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            mode=mode,
            dir=str(info.folder),
            id=_run_id(info.folder),
            resume="allow",
            name=info.run_name,
            group=info.group,
            job_type=info.arm,
            config=shareable(info.config),
            settings=settings,
        )
        # Images seen are the axis: W&B's own step cannot go back, which it must after a resume.
        run.define_metric("samples")
        run.define_metric("train/*", step_metric="samples")
        run.define_metric("eval/*", step_metric="samples")
        return run

    def _send(self, record: StepRecord) -> None:
        self._unsent += 1
        if self._run is not None:
            self._run.log(_values(record))
            self._unsent -= 1

    def _close(self, result: dict[str, Any] | None) -> None:
        if self._run is None:
            return
        if result is not None:
            self._run.summary.update(_summary(result))
        self._run.finish(exit_code=0 if result is not None else 1)


def _run_id(folder: Path) -> str:
    """Return the W&B id of this run folder, made up at its first start, so that a resumed run stays one run."""
    path = folder / RUN_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _values(record: StepRecord) -> dict[str, Any]:
    """Return what W&B gets of a record: axes by their name, the rest as train/NAME and eval/NAME, without Nones."""
    values = {}
    for name, value in record.as_dict().items():
        room = "" if name in _AXES else "eval/" if name in _EVALUATIONS else "train/"
        if value is not None:
            values[room + name] = value
    return values


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    phases = {f"latency_s/{name}": phase["latency_s"] for name, phase in result["phases"].items()}
    return {name: result[name] for name in ("accuracy", "latency_s", "images_per_s")} | phases


def _one_line(error: Exception) -> str:
    """Return an error as one line of bounded length."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
