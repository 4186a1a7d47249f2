"""Signals: SIGTERM, SIGUSR1 and SIGINT become a question, which the loop answers at the next step border.

While a run is set up there is nothing to save, and a signal ends the process at once. A thread takes the signals, by
the interpreter's wake-up pipe: a main thread that waits inside a collective runs no handler of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
CAUGHT_UP = 0  # no signal has this number: what the main thread writes to know that all before it was read
GRACE_S = 3.0  # for a main thread that should end at once, and may sit in a call that nothing interrupts


class Signals:
    """Takes the signals of this process for the length of a block; of a thread other than the main one, none."""

    def __init__(self) -> None:
        self.asked = 0  #: number of the first signal that came, 0 before
        self._deferring = False
        self._ending: int | None = None  # number of the signal that ends the process at once
        self._closed = threading.Event()
        self._caught_up = threading.Event()

    def __enter__(self) -> Signals:
        """Take over the signals."""
        self._main = threading.get_ident()
        self._taken = threading.current_thread() is threading.main_thread()
        if self._taken:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._handlers_before = {each: signal.signal(each, self._handle) for each in HANDLED}
            self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever had them."""
        if not self._taken:
            return
        signal.set_wakeup_fd(self._wakeup_before)
        self._closed.set()
        try:
            os.close(self._write)  # the thread reads the end, and ends: before the handlers go, as it may signal yet
            self._thread.join()
            os.close(self._read)
        finally:
            for each, handler in self._handlers_before.items():
                signal.signal(each, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block, a signal only sets ``asked``; a second SIGINT ends the process even so.

        So does SIGTERM after SIGINT, which is what torchrun makes of a second Ctrl-C.
        """
        self._deferring = True
        try:
            yield
        finally:
            if (
                self._taken and self._ending is None
            ):  # what came within the block is read as such, however late the thread gets its turn
                os.write(self._write, bytes([CAUGHT_UP]))
                self._caught_up.wait()
            self._deferring = False

    def _listen(self) -> None:
        while read := os.read(self._read, 1):
            number = read[0]
            if number == CAUGHT_UP:
                self._caught_up.set()
                continue
            again = self.asked == signal.SIGINT and number != signal.SIGUSR1
            self.asked = self.asked or number
            if again or not self._deferring:
                self._end(number)
                return

    def _end(self, number: int) -> None:
        """Raise in the main thread, so that files half-written are removed; where it does not answer, leave for it."""
        self._ending = signal.SIGINT if self.asked == signal.SIGINT else number
        signal.pthread_kill(self._main, number)
        if not self._closed.wait(GRACE_S):
            sys.stderr.flush()
            os._exit(128 + self._ending)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._ending == signal.SIGINT:
            raise KeyboardInterrupt
        if self._ending is not None:
            raise SystemExit(128 + self._ending)
