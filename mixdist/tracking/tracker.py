"""What a tracker is, what it is told when a run starts, and the fan-out to several of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mixdist.engine.record import StepRecord


@dataclass(frozen=True)
class PhaseInfo:
    """One phase of the plan, as far as trackers need it."""

    name: str  #: "ssl", "mix" or "sl"
    epochs: int
    steps: int  #: optimiser updates of the phase


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told when a run starts."""

    folder: Path  #: run folder; it exists
    config: dict[str, Any]  #: the resolved config, sections as nested dictionaries
    plan: tuple[PhaseInfo, ...]  #: phases in the order in which they run
    first_step: int  #: updates that there are records of from before: 0, or where they go on after a resume
    run_name: str
    group: str
    arm: str  #: "sl", "ssl+sl" or "mixtraining"
    title: tuple[str, ...] = ()  #: lines for the top of the console: device, ranks, data
    world_size: int = 1
    tags: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)  #: what the config does not say: device, precision, code, ...
    #: What the checkpoint of a resumed run brought back; a tracker's ``start`` puts in what the next ones shall hold.
    carried: dict[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """A place where records go. It reads and never changes what it is given."""

    def start(self, info: RunInfo) -> None:
        """Open the place; called once, before all records."""

    def log(self, record: StepRecord) -> None:
        """Take one record."""

    def message(self, text: str) -> None:
        """Take a warning or a note for the user: one line."""

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Close the place; called once, also where ``start`` never was.

        Args:
            result: what result.json holds, or None where an error or an interruption ended the run. Trackers read
                what `mixdist.engine.result` puts there.
            stopped: a signal asked the run to stop, and it has saved: the same command goes on there.
        """


class Trackers:
    """Several trackers told the same, in order. Ranks other than 0 have an empty one."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def start(self, info: RunInfo) -> None:
        """Start each tracker."""
        for tracker in self._trackers:
            tracker.start(info)

    def log(self, record: StepRecord) -> None:
        """Give each tracker the record."""
        for tracker in self._trackers:
            tracker.log(record)

    def message(self, text: str) -> None:
        """Give each tracker the line."""
        for tracker in self._trackers:
            tracker.message(text)

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        """Finish each tracker, in order, also after one of them raised; its error is raised at the end."""
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.finish, result, stopped)
