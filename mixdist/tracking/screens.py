"""The two ways to put lines on a screen: a live display for a terminal, plain lines for anything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from mixdist.engine.record import StepRecord
from mixdist.tracking import lines
from mixdist.tracking.progress import Standing

if TYPE_CHECKING:
    import rich.console
    import rich.progress

Clock = Callable[[], float]


class Screen(Protocol):
    """Takes lines that stay and a state that may be overwritten. ``line`` may be called from any thread."""

    def line(self, text: str) -> None:
        """Write a line that stays."""

    def show(self, record: StepRecord, standing: Standing, accuracy: float | None) -> None:
        """Show where the run stands; ``accuracy`` is the one last measured."""

    def close(self) -> None:
        """Take the state off the screen; lines may still come."""


class PlainScreen:
    """Lines without control characters, for files and pipes; the state at most once in ``interval_s`` seconds."""

    def __init__(self, stream: TextIO, interval_s: float = 10.0, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._clock = clock
        self._shown: float | None = None

    def line(self, text: str) -> None:
        """Write the line at once, in one piece, so that threads do not cut into each other's lines."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def show(self, record: StepRecord, standing: Standing, accuracy: float | None) -> None:
        """Write the state as a line, or leave it out where the last one is not old enough."""
        now = self._clock()
        if self._shown is None or now - self._shown >= self._interval_s:
            self._shown = now
            self.line(lines.full(record, standing, accuracy))

    def close(self) -> None:
        """Do nothing."""


class LiveScreen:
    """Three lines at the bottom of a terminal: the phase, the run and the measures, none of which wraps."""

    def __init__(self, console: rich.console.Console, interval_s: float = 0.1, clock: Clock = time.monotonic) -> None:
        from rich.live import Live

        self._interval_s = interval_s
        self._clock = clock
        self._shown: float | None = None
        self._bars = _bars(console)
        self._tasks = [self._bars.add_task("", total=None, epoch="", eta="") for _ in ("phase", "run")]
        # No refresh thread: the display is drawn where a record comes, and never while a step is computed.
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def line(self, text: str) -> None:
        """Write the line above the display."""
        self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, record: StepRecord, standing: Standing, accuracy: float | None) -> None:
        """Redraw the display, at most once in ``interval_s`` seconds."""
        now = self._clock()
        if self._shown is not None and now - self._shown < self._interval_s:
            return
        self._shown = now
        self._live.start()
        self._update(0, standing.phase.name, standing.phase_step, standing.phase.steps, standing.eta_phase_s)
        self._update(1, "run", standing.step, standing.steps, standing.eta_run_s)
        self._bars.update(self._tasks[0], epoch=lines.epoch(record, standing))
        self._draw(lines.measures(record, accuracy))

    def close(self) -> None:
        """Remove the display."""
        self._live.stop()

    def _update(self, task: int, name: str, done: int, total: int, eta_s: float | None) -> None:
        eta = f"ETA {lines.duration(eta_s)}"
        self._bars.update(self._tasks[task], description=name, completed=done, total=total, eta=eta)

    def _draw(self, measures: str) -> None:
        from rich.console import Group
        from rich.text import Text

        self._live.update(Group(self._bars, Text(measures, no_wrap=True, overflow="ellipsis")), refresh=True)


def _bars(console: rich.console.Console) -> rich.progress.Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[epoch]}"),
        TextColumn("{task.fields[eta]}"),
    ]
    return Progress(*columns, console=console, expand=True, auto_refresh=False)
