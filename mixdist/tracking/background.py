"""A daemon thread that does jobs one after another, so that the thread that trains never waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

Job = Callable[[], None]
# For a run that ends early: torchrun kills ranks 30 s after a signal, most of which a save may take.
STOP_TIMEOUT_S = 4.0


def patience_s(whole_s: float, finished: bool) -> float:
    """Return how long to wait for a tracker at a run's end: at most ``STOP_TIMEOUT_S`` where it ended early."""
    return whole_s if finished else min(whole_s, STOP_TIMEOUT_S)


class Background:
    """Runs jobs in the order in which they were offered. Jobs handle their own errors."""

    def __init__(self, name: str, capacity: int) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def offer(self, job: Job) -> bool:
        """Queue a job and return at once; False where ``capacity`` jobs wait already, and this one is dropped."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return False
        return True

    def close(self, last: Job, timeout_s: float) -> bool:
        """Queue the last job and wait until all are done; False where that took longer than ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        try:
            for job in (last, None):
                self._jobs.put(job, timeout=max(deadline - time.monotonic(), 0))
        except queue.Full:
            return False
        self._thread.join(max(deadline - time.monotonic(), 0))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
