"""The watchdog of a rank: ends the process, with a report, when it or another one stands still.

One thread looks at this rank's heartbeat, another talks to the store, over a connection of its own: whatever the
store does, and wherever the thread that trains is stuck, the first one still gets to its end. All of it is off the
path of a step.

While the run is set up, ranks have work of different length (one reads the checkpoint, one of a node decodes a set that
all of it share), and the others wait: the run stands still where no rank gives a sign of life.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
from torch._C._distributed_c10d import Store

from mixdist.engine import heartbeat
from mixdist.engine.hang import Standing, hang_report
from mixdist.errors import HangError
from mixdist.files import write_text
from mixdist.world import FALLEN, World, tell_launcher

HANG = "mixdist/hang"  # key of the store: the rank that was first to notice, which reports
REPORT = "mixdist/hang-report"  # its report, when it has been written
READ = "mixdist/hang-report-read"  # how many ranks have it
STANDING = "mixdist/standing/"  # + rank
ALIVE = "mixdist/alive"  # signs of life of all ranks while the run is set up
STORE_S = 10.0  # for an answer of the store, before the report is made without it
FALLEN_S = 5.0  # for the thread that trains to see by itself that another rank is gone


class Watchdog:
    """Watches for the length of a block, or until it is closed.

    Args:
        world: this rank's place.
        store: of the process group; None for a world of one.
        folder: where stacks and report go; made when there is something to write.
        timeout_s: how long a rank may stand in one place (a slow stage: four times that); 0 watches for the failure
            of other ranks only.
    """

    def __init__(self, world: World, store: Store | None, folder: Path, timeout_s: float) -> None:
        self._world = world
        self._store = store.clone() if store is not None else None
        self._folder = folder
        self._timeout_s = timeout_s
        self._tick_s = min(max(timeout_s / 20, 0.25), 5.0) if timeout_s else 1.0
        self._awake_since = self._heard_at = time.monotonic()  # when it went on; when any rank gave a sign of life
        self._heard, self._told = 0, 0.0  # the count of them; this rank's newest among them
        self._closed = threading.Event()
        self._wanted = threading.Event()  # this rank stands still: find out who else does
        self._answered = threading.Event()
        self._report: str | None = None

    def __enter__(self) -> Watchdog:
        """Begin."""
        heartbeat.start()
        self._threads = [threading.Thread(target=self._watch, name="watchdog", daemon=True)]
        if self._store is not None:
            self._store.set_timeout(timedelta(seconds=STORE_S))
            self._tell()  # so that the others know of this process, wherever it is stopped
            self._threads.append(threading.Thread(target=self._talk, name="watchdog-store", daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """End; what another rank does from now on is no concern any more."""
        self._closed.set()
        for thread in self._threads:
            thread.join(STORE_S)

    # The thread that watches

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._closed.wait(self._tick_s):
            now = time.monotonic()
            if now - looked > self._tick_s + self._timeout_s / 2:  # the process itself was stopped, and goes on
                self._awake_since = now
            looked = now
            beat = heartbeat.last()
            if self._timeout_s and self._stood_s(beat) > self._timeout_s * beat.patience:
                self._wanted.set()
            if self._wanted.is_set():
                self._give_up()

    def _still_s(self, beat: heartbeat.Beat) -> float:
        return time.monotonic() - max(beat.at, self._awake_since)

    def _stood_s(self, beat: heartbeat.Beat) -> float:
        """How long nothing has gone on that this rank knows of."""
        others = self._heard_at if beat.stage == "start" and self._store is not None else beat.at
        return min(self._still_s(beat), time.monotonic() - others)

    def _give_up(self) -> None:
        """Write every thread's stack, have the report made, and end the process."""
        self._write_stacks()
        if self._store is not None:
            self._answered.wait(3 * STORE_S)
        if self._report is None:
            alone = self._world.size == 1
            report = self._make_report([self._own()], [], [self._world.rank])
            note = "" if alone else "\nno word of the other ranks: torch's store, on rank 0's node, does not answer"
            self._say(report + note, "table.txt" if alone else f"table-of-rank-{self._world.rank}.txt")
        tell_launcher(str(self._report))
        if self._world.device.type == "cuda":
            self._write_collectives()
        os.killpg(0, signal.SIGCONT)  # a stopped process that decodes for this one could not see that it has gone
        os._exit(HangError.exit_code)

    def _write_stacks(self) -> None:
        with suppress(OSError):  # a full disk should not hide the report
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"rank-{self._world.rank}.txt").open("w") as file:
                file.write(f"{self._own()}\n")
                file.flush()
                faulthandler.dump_traceback(file)

    def _write_collectives(self) -> None:
        """Write NCCL's record of the last collectives; it asks the GPU, which may not answer: then the process ends."""
        faulthandler.dump_traceback_later(STORE_S, exit=True)
        with suppress(Exception):  # a private interface, of builds with NCCL
            trace = torch._C._distributed_c10d._dump_nccl_trace_json()  # type: ignore[attr-defined]
            if json.loads(trace).get("entries"):
                (self._folder / f"collectives-rank-{self._world.rank}.json").write_bytes(trace)
        faulthandler.cancel_dump_traceback_later()

    def _say(self, report: str, name: str = "table.txt") -> None:
        self._report = report
        with suppress(OSError):
            write_text(self._folder / name, report + "\n")
        sys.stdout.flush()
        sys.stderr.write(f"mixdist: error: {report}\n")
        sys.stderr.flush()

    def _make_report(self, standings: list[Standing], silent: list[int], ranks: list[int]) -> str:
        return hang_report(standings, silent, ranks, time.time(), str(self._folder / "rank-*.txt"))

    def _own(self) -> Standing:
        beat = heartbeat.last()
        return Standing(
            rank=self._world.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            step=beat.step,
            phase=beat.phase,
            stage=beat.stage,
            beats=beat.beats,
            still_s=round(self._still_s(beat), 1),
            told_at=time.time(),
        )

    # The thread that talks to the store

    def _talk(self) -> None:
        assert self._store is not None
        with suppress(RuntimeError):  # the store is gone: the watching thread goes on without it
            while not self._closed.wait(self._tick_s):
                self._tell()
                self._hear()
                if self._store.check([FALLEN]):
                    self._leave_after_another()
                if self._wanted.is_set() or self._store.check([HANG]):
                    self._wanted.set()
                    self._answer()
                    break
        self._answered.set()

    def _tell(self) -> None:
        assert self._store is not None
        self._store.set(STANDING + str(self._world.rank), self._own().to_json())

    def _hear(self) -> None:
        """Count this rank's signs of life among those of all, and note when there were new ones."""
        assert self._store is not None
        beat = heartbeat.last()
        if beat.stage != "start":
            return
        heard = self._store.add(ALIVE, int(beat.at > self._told))
        if heard != self._heard:
            self._heard, self._heard_at = heard, time.monotonic()
        self._told = beat.at

    def _leave_after_another(self) -> None:
        """Leave after a rank that failed alone: on a GPU, the thread that trains would wait for it for long."""
        assert self._store is not None
        fallen = self._store.get(FALLEN).decode()
        if not self._closed.wait(FALLEN_S):
            sys.stderr.write(f"mixdist: error: stopped, because {fallen}\n")
            sys.stderr.flush()
            os._exit(1)

    def _answer(self) -> None:
        """Make the report if this rank is the first that wants it, else wait for it."""
        assert self._store is not None
        mine = str(self._world.rank)
        if self._store.compare_set(HANG, "", mine).decode() == mine:
            first = self._standings()
            time.sleep(2.5 * self._tick_s)  # in which every process that runs speaks again
            self._tell()
            second = self._standings()
            silent = [rank for rank, one in second.items() if first.get(rank) == one]
            self._say(self._make_report(list(second.values()), silent, list(range(self._world.size))))
            self._store.set(REPORT, str(self._report))
            self._wake([second[rank] for rank in silent])
            self._await_readers(len(second) - len(silent))
            return
        while not self._store.check([REPORT]):
            self._tell()
            time.sleep(min(self._tick_s, 0.5))
        self._report = self._store.get(REPORT).decode()
        self._store.add(READ, 1)
        self._await_readers(self._world.size)
        time.sleep(1)  # so that the rank with the report is the first to leave, and torchrun's cause

    def _await_readers(self, ranks: int) -> None:
        """Stay until so many ranks, less the one that made it, have the report: rank 0's process may hold the store."""
        assert self._store is not None
        until = time.monotonic() + 2 * self._tick_s
        while self._world.rank == 0 and self._store.add(READ, 0) < ranks - 1 and time.monotonic() < until:
            time.sleep(0.05)

    def _wake(self, silent: list[Standing]) -> None:
        """Let stopped processes of this machine go on, to find the others gone; torchrun would wait 30 s for them."""
        for one in silent:
            if one.host == socket.gethostname():
                with suppress(OSError):
                    os.kill(one.pid, signal.SIGCONT)

    def _standings(self) -> dict[int, Standing]:
        assert self._store is not None
        keys = [STANDING + str(rank) for rank in range(self._world.size)]
        return {at: Standing.from_json(self._store.get(key)) for at, key in enumerate(keys) if self._store.check([key])}
