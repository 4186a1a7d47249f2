"""What the user sees of a run, in the order in which it happens; screens.py says how it is drawn."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from mixdist.engine.record import StepRecord
from mixdist.tracking import lines
from mixdist.tracking.progress import Progress, Standing
from mixdist.tracking.screens import LiveScreen, PlainScreen, Screen
from mixdist.tracking.tracker import RunInfo


class Console:
    """Tells the run on a screen: each phase's start and end, each evaluation, and in between where it stands."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._info: RunInfo | None = None
        self._last: Standing | None = None
        self._accuracy: float | None = None
        self._told_data_bound = False
        self._collapsed = False
        self._bad_samples = 0
        self._skipped = 0

    def start(self, info: RunInfo) -> None:
        """Write the title and the start of the first phase."""
        self._info = info
        self._progress = Progress(info.plan, info.first_step)
        for text in info.title:
            self._screen.line(text)
        self._open_phase(info.first_step)

    def log(self, record: StepRecord) -> None:
        """Show the record, and write what it brings that should stay."""
        standing = self._progress.advance(record)
        if record.accuracy is not None:
            self._accuracy = record.accuracy
        self._screen.show(record, standing, self._accuracy)
        if record.accuracy is not None:
            self._screen.line(lines.evaluation(record, standing))
        if record.knn is not None:
            self._screen.line(lines.probe(record, standing))
        self._warn_of_collapse(record)
        self._warn_of_waiting(record, standing)
        self._warn_of_bad_samples(record)
        self._warn_of_skipped_updates(record)
        if standing.ends_phase:
            self._screen.line(lines.phase_end(record))
            self._open_phase(record.step)
        self._last = standing

    def look(self, info: RunInfo, records: Iterable[StepRecord]) -> None:
        """Write of all records of a run so far its phase, the last evaluation and where it stands."""
        self._info = info
        self._progress = Progress(info.plan, 0)
        evaluation, state = "", ""
        for record in records:
            self._last = self._progress.advance(record)
            if record.accuracy is not None:
                self._accuracy, evaluation = record.accuracy, lines.evaluation(record, self._last)
            state = lines.full(record, self._last, self._accuracy)
        number, phase = (0, info.plan[0]) if self._last is None else (self._last.number, self._last.phase)
        opening = lines.phase_start(phase, number, len(info.plan))
        for text in (*info.title, opening, evaluation, state):
            if text:
                self._screen.line(text)

    def message(self, text: str) -> None:
        """Write the line; any thread may call this."""
        self._screen.line(text)

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Remove the display and write the result, or how far the run came without one."""
        self._screen.close()
        if self._info is None:
            return
        if result is not None:
            closing = lines.summary(result, self._info.folder)
        else:
            closing = [lines.stopped(self._last, self._info.folder)]
        for text in closing:
            self._screen.line(text)

    def _open_phase(self, step: int) -> None:
        """Write the start of the phase that trains after ``step`` updates, if one does."""
        plan = self._progress.plan
        number = self._progress.phase_after(step)
        if number is not None:
            within = step > sum(phase.steps for phase in plan[:number])
            after = f"{step} of {sum(phase.steps for phase in plan)}" if within else ""
            self._screen.line(lines.phase_start(plan[number], number, len(plan), after))

    def _warn_of_collapse(self, record: StepRecord) -> None:
        if record.collapsed and not self._collapsed:
            self._screen.line(lines.COLLAPSED)
        if record.collapsed is not None:
            self._collapsed = record.collapsed

    def _warn_of_bad_samples(self, record: StepRecord) -> None:
        if record.bad_samples > self._bad_samples:
            self._screen.line(f"{record.bad_samples} samples could not be read so far and do not count")
        self._bad_samples = record.bad_samples

    def _warn_of_skipped_updates(self, record: StepRecord) -> None:
        if record.skipped > self._skipped:
            self._screen.line(f"{record.skipped} updates left out so far, as loss or gradient was not finite")
        self._skipped = record.skipped

    def _warn_of_waiting(self, record: StepRecord, standing: Standing) -> None:
        # The first window of a phase is left out: the loader's threads start in it.
        first_window = self._last is None or self._last.number != standing.number
        if self._told_data_bound or first_window or not record.data_bound:
            return
        self._told_data_bound = True
        self._screen.line(lines.data_bound(record))


def open_console() -> Console:
    """Return a console on standard output: live on a terminal, plain lines elsewhere."""
    # isatty and not rich's own test: FORCE_COLOR would put control characters into files.
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return Console(PlainScreen(sys.stdout))
    import rich.console

    return Console(LiveScreen(rich.console.Console()))
