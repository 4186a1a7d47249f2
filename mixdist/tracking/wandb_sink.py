"""Weights & Biases as a place for records that never stops, slows or hangs the training.

All calls into wandb happen in one background thread. The first that fails ends W&B for this run, with one line for
the user; what could not be sent is counted. The run folder has every record whatever happens here.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mixdist.engine.record import StepRecord
from mixdist.errors import StoppedError
from mixdist.files import write_text
from mixdist.tracking import wandb_media
from mixdist.tracking.background import Background, patience_s
from mixdist.tracking.sync import mark_sent
from mixdist.tracking.tracker import RunInfo
from mixdist.tracking.wandb_values import AXES, described, summary, values

RUN_ID = "wandb-id.txt"
LAST_PICTURE = "reconstruction.png"
CARRIED = "wandb"  #: the id's name among what checkpoints carry


class WandbSink:
    """Sends records to W&B, or keeps them for ``wandb sync`` where W&B cannot be reached.

    Args:
        mode: "online" or "offline". Online becomes offline, with a line, without a login or an answer of the server.
        project: W&B project.
        entity: W&B entity; None is the user's own.
        message: takes one line for the user; called from the background thread.
        init_timeout_s: how long to wait for the server before the run goes on offline. wandb's own exit hook waits
            this long too where the process ends before, so it belongs below ``close_timeout_s``.
        close_timeout_s: how long ``finish`` waits at most (see `patience_s`).
        capacity: records that may wait to be sent; what comes on top is dropped and counted.
        images: pictures go to W&B too.
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
        images: bool = False,
    ) -> None:
        self._mode = mode
        self._project = project
        self._entity = entity
        self._message = message
        self._init_timeout_s = init_timeout_s
        self._close_timeout_s = close_timeout_s
        self._capacity = capacity
        self._images = images
        self._thread: Background | None = None
        self._given_up = False
        self._dropped = 0  # records that found the queue full; only the training thread writes it
        self._unsent = 0  # records that W&B refused or that came when it was off; only the background thread writes it
        self._run: Any = None  # wandb's run; None before it is open and after the first failure
        self._part: Path | None = None  # what wandb keeps of an online run until it is there
        self._sync = ""  # the command that uploads what W&B does not have

    def start(self, info: RunInfo) -> None:
        """Begin to open the run, in the background, under the id that it has had since its first start."""
        self._folder, self._world_size = info.folder, info.world_size
        kept = info.carried.get(CARRIED) or _kept_id(info.folder)
        info.carried[CARRIED] = kept or secrets.token_hex(4)
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

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Close the run; give up, with a line, where that takes too long."""
        if self._thread is None:
            return
        timeout_s = patience_s(self._close_timeout_s, finished=result is not None)
        closed = self._thread.close(partial(self._guarded, partial(self._close, result, stopped)), timeout_s)
        self._given_up = True
        if not closed:
            self._message(f"W&B did not finish in {timeout_s:g} s and is left{self._how_to_upload()}")
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

        self._wandb = wandb
        write_text(info.folder / RUN_ID, info.carried[CARRIED] + "\n")
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
        self._part = Path(run.dir).parent if mode == "online" else None
        self._sync = f"mixdist sync {shlex.quote(str(info.folder))}"
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
            id=info.carried[CARRIED],
            resume="allow",
            settings=settings,
            **described(info),
        )
        for axis in dict.fromkeys(AXES.values()):
            run.define_metric(axis)
        for names, axis in AXES.items():
            run.define_metric(names, step_metric=axis)
        return run

    def _send(self, record: StepRecord) -> None:
        self._unsent += 1
        if self._run is not None:
            # By its step, which W&B takes only once: what a resumed run does again is there already, and the parts of
            # an offline run fit together whenever they are uploaded.
            self._run.log(values(record, self._world_size) | self._picture(record), step=record.step)
            self._unsent -= 1

    def _picture(self, record: StepRecord) -> dict[str, Any]:
        if not self._images or record.reconstruction is None:
            return {}
        return wandb_media.picture(self._wandb, self._folder, record.reconstruction, f"epoch {record.epoch}")

    def _send_last(self) -> None:
        last = wandb_media.classes(self._wandb, self._folder)
        if self._images and (self._folder / LAST_PICTURE).is_file():
            last |= wandb_media.picture(self._wandb, self._folder, LAST_PICTURE, "at the end")
        if last:
            self._run.log(last)

    def _close(self, result: dict[str, Any] | None, stopped: bool) -> None:
        if self._run is None:
            return
        if result is not None:
            self._run.summary.update(summary(result))
            try:
                self._send_last()
            except (
                Exception
            ) as error:  # tables and pictures are uploaded apart, which may fail where numbers get through
                self._say(f"W&B did not get the pictures and tables of the end ({_one_line(error)})")
        if stopped:  # with that and an exit code, W&B shows the run as preempted, and not as failed, until it goes on
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if result is not None else StoppedError.exit_code if stopped else 1)
        if self._part is not None and not self._unsent + self._dropped:
            mark_sent(self._part)


def _kept_id(folder: Path) -> str | None:
    """Return the id that an earlier start of this run folder left, if there is one."""
    try:
        text = (folder / RUN_ID).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[a-z0-9]{1,64}", text) else None


def _one_line(error: Exception) -> str:
    """Return an error as one line of bounded length."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
