"""`mixdist watch`: follow a run from another terminal by what it writes into its folder; the run does not know."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mixdist.arguments import Parser
from mixdist.engine.record import StepRecord
from mixdist.errors import UserError
from mixdist.locks import is_held
from mixdist.runfolder import RunFolder
from mixdist.tracking.console import Console, open_console
from mixdist.tracking.tracker import PhaseInfo, RunInfo

EVERY_S = 0.5  # between two looks
_RECORD = TypeAdapter(StepRecord)


def main(argv: Sequence[str]) -> int:
    """Show a run until it is finished; return the exit code.

    Raises:
        UserError: there is no run in the folder, or a file of it that cannot be read.
    """
    parser = Parser("mixdist watch", "Follow a running training from its run folder; Ctrl-C ends the watching only.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--once", action="store_true", help="show how far it is, and leave")
    options = parser.parse_args(argv)
    folder, console = RunFolder(options.run), open_console()
    if options.once:
        look(folder, console)
    else:
        watch(folder, console, lambda: time.sleep(EVERY_S))
    return 0


def look(folder: RunFolder, console: Console) -> None:
    """Show how far a run is: whether it trains, its phase, its last evaluation and record, or its result.

    Raises:
        UserError: there is no run in the folder, or a file of it that cannot be read.
    """
    info, result = read_info(folder), _result(folder)
    title = info.title if result else (*info.title, _halted(folder) or "in training")
    console.look(replace(info, title=title), Metrics(folder.metrics).new())
    if result:
        console.finish(result)


def watch(folder: RunFolder, console: Console, wait: Callable[[], None]) -> None:
    """Show the records of a run as they come, until its result is there.

    Raises:
        UserError: there is no run in the folder, or a file of it that cannot be read.
    """
    info = read_info(folder)
    metrics, told = Metrics(folder.metrics), ""
    console.start(info)
    result = None
    while result is None:
        result = _result(folder)  # before the records: what is there once it stands is all
        for record in metrics.new():
            console.log(record)
        if result is None:
            state = _halted(folder)
            if state and state != told:
                console.message(f"{state}; waiting for its next start")
            told = state
            wait()
    console.finish(result)


def read_info(folder: RunFolder) -> RunInfo:
    """Return what the plan of a run says.

    Raises:
        UserError: there is none.
    """
    path = folder.plan
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        phases = tuple(PhaseInfo(phase["name"], phase["epochs"], phase["steps"]) for phase in plan["phases"])
    except FileNotFoundError:
        raise UserError(f"{folder.path} holds no run: no plan.json; give the run.dir of one that has started") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as a plan ({error})") from None
    return RunInfo(folder.path, {}, phases, 0, folder.path.name, "", "", title=(f"watching {folder.path}",))


class Metrics:
    """The lines of a metrics.jsonl that grows, and that a resume replaces by one cut to its checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = (0, 0)  # device and inode
        self._offset = 0
        self._lines = 0
        self._seen: dict[int, bytes] = {}  # step -> its line

    def new(self) -> Iterator[StepRecord]:
        """Yield the records that were not yielded before; a line without its end is left for the next time.

        Raises:
            UserError: a line that is no record.
        """
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset:
                    self._file, self._offset, self._lines = (status.st_dev, status.st_ino), 0, 0
                file.seek(self._offset)
                found = file.read()
        except FileNotFoundError:  # not begun yet
            return
        for line in found.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            self._offset += len(line)
            self._lines += 1
            record = self._record(line)
            if self._seen.get(record.step) != line:  # else kept by a resume, and shown before
                self._seen[record.step] = line
                yield record

    def _record(self, line: bytes) -> StepRecord:
        try:
            return _RECORD.validate_json(line)
        except ValidationError as error:
            raise UserError(f"{self._path} line {self._lines} is not a record ({error.errors()[0]['msg']})") from None


def _result(folder: RunFolder) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(folder.result.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{folder.result} is not JSON ({error})") from None
    return found


def _halted(folder: RunFolder) -> str:
    """Say that nobody trains here at present; empty where somebody does, or where that cannot be known."""
    try:
        why = json.loads(folder.stopped.read_text(encoding="utf-8"))["why"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    else:
        return str(why)
    try:
        return "" if is_held(folder.lock) else "no process trains here now"
    except OSError:  # a file system without locks
        return ""
