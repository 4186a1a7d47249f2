"""trackio as a place for records, on this machine only: a process of its own writes them, and a thread feeds it.

The training never waits for either. The first error ends trackio for this run, with one line; the run folder has all.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from mixdist.child import child
from mixdist.engine.record import StepRecord
from mixdist.errors import UserError
from mixdist.tracking.background import Background, patience_s
from mixdist.tracking.tracker import RunInfo
from mixdist.tracking.wandb_values import described, values

CARRIED = "trackio"  #: the run's name there, among what checkpoints carry
CAPACITY = 1000  # records that may wait; what comes on top is dropped and counted
_DROPPED = ("TRACKIO_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # what would send records, or ask, elsewhere


class Trackio:
    """Keeps records in trackio's own folder, for `trackio show`.

    Args:
        project: trackio's project.
        message: takes one line for the user; any thread calls it.
        close_timeout_s: how long ``finish`` waits at most (see `patience_s`).
    """

    def __init__(self, project: str, message: Callable[[str], None], close_timeout_s: float) -> None:
        self._project, self._message, self._close_timeout_s = project, message, close_timeout_s
        self._thread: Background | None = None
        self._child: subprocess.Popen[str] | None = None
        self._off = False  # after the first error, or left: the user has been told
        self._dropped = 0

    def start(self, info: RunInfo) -> None:
        """Begin to open the run, under the name that it has had since its first start.

        Raises:
            UserError: trackio is not installed.
        """
        if find_spec("trackio") is None:
            raise UserError("tracking.trackio needs trackio; install it with: pip install 'mixdist[trackio]'")
        self._world_size = info.world_size
        name = info.carried.setdefault(CARRIED, f"{info.run_name}-{secrets.token_hex(4)}")
        told = described(info)
        first = {"project": self._project, "name": name, "group": info.group, "config": told["config"]}
        first["config"] |= {"arm": info.arm, "tags": told["tags"]}
        self._thread = Background("trackio", CAPACITY)
        self._thread.offer(partial(self._guarded, partial(self._open, first)))

    def log(self, record: StepRecord) -> None:
        """Queue the numbers of a record and return at once."""
        if self._thread is None:
            raise RuntimeError("Trackio.log before start")
        told = values(record, self._world_size)
        del told["step"]  # trackio's own
        if not self._thread.offer(partial(self._guarded, partial(self._send, [record.step, told]))):
            self._dropped += 1

    def message(self, text: str) -> None:
        """Do nothing: trackio gets records only."""

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Let what waits be written; give up, with a line, where that takes too long."""
        if self._thread is None:
            return
        timeout_s = patience_s(self._close_timeout_s, finished=result is not None)
        if not self._thread.close(partial(self._guarded, self._close), timeout_s):
            self._end(f"trackio did not finish in {timeout_s:g} s and is left; metrics.jsonl has all records")
        elif self._dropped:
            self._message(f"trackio did not get {self._dropped} records; metrics.jsonl has all of them")

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if not self._off:
                self._end(f"trackio is off for the rest of this run ({self._why() or error})")

    def _end(self, told: str) -> None:
        self._off = True
        if self._child is not None:
            self._child.kill()
        self._message(told)

    def _open(self, first: dict[str, Any]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
        if "TRACKIO_DIR" in os.environ:
            kept["TRACKIO_DIR"] = os.environ["TRACKIO_DIR"]
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (read when the process has failed)
        self._child = subprocess.Popen(
            child("mixdist.tracking.trackio_child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            text=True,
            env={**kept, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        )
        self._send(first)
        self._message(f"trackio: {first['name']}; look at it with: trackio show --project {self._project}")

    def _send(self, content: Any) -> None:
        if not self._off and self._child is not None and self._child.stdin is not None:
            self._child.stdin.write(json.dumps(content) + "\n")
            self._child.stdin.flush()

    def _close(self) -> None:
        child = self._child
        if self._off or child is None or child.stdin is None:
            return
        child.stdin.close()
        if child.wait():
            raise OSError(f"its process left with exit code {child.returncode}")

    def _why(self) -> str:
        """Return the last line that the process wrote on its way out; empty where none was started."""
        if self._child is None:
            return ""
        self._child.wait(1)  # its pipe breaks before it has said why
        self._said.seek(0)
        lines = self._said.read().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
