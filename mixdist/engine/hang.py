"""What is said of a run that stands still: where each rank stands, and who waits for whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mixdist.engine.heartbeat import Stage


@dataclass(frozen=True)
class Standing:
    """Where a rank stood when it last said so."""

    rank: int
    host: str
    pid: int
    step: int  #: updates done
    phase: str  #: "" while the run is set up
    stage: Stage
    beats: int  #: since its step began
    still_s: float  #: how long it had stood there
    told_at: float  #: time.time() of its host

    @property
    def place(self) -> tuple[int, int]:
        """Where in the run it stands, to be compared."""
        return self.step, self.beats

    def to_json(self) -> str:
        """Return it as text for the store."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Standing:
        """Undo `to_json`."""
        return Standing(**json.loads(text))


def waited_for(standings: Sequence[Standing], silent: Sequence[int]) -> list[int]:
    """Return the ranks that hold the others up: those that say nothing any more, else those furthest behind.

    None, where all stand at one place: then it is what they do together that does not end.
    """
    if silent:
        return list(silent)
    places = {one.place for one in standings}
    return [one.rank for one in standings if one.place == min(places)] if len(places) > 1 else []


def hang_report(
    standings: Sequence[Standing], silent: Sequence[int], ranks: Sequence[int], now: float, folder: str
) -> str:
    """Return the verdict in one line, and a table with a line a rank.

    Args:
        standings: by rank; of ranks that never said where they are, none.
        silent: ranks that have stopped saying it; their process is stopped, gone or cut off.
        ranks: those that the report is about.
        now: time.time().
        folder: where the stacks are.
    """
    known = {one.rank: one for one in standings}
    silent = [rank for rank in ranks if rank in silent or rank not in known]
    cause = waited_for(standings, silent)
    rows: list[tuple[str, ...]] = [("rank", "host", "pid", "step", "phase", "stage", "since", "")]
    rows += [_row(rank, known.get(rank), silent, cause, now) for rank in ranks]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_verdict(known, silent, cause), *lines, f"stacks of all threads: {folder}"])


def _verdict(known: dict[int, Standing], silent: list[int], cause: list[int]) -> str:
    if not cause:
        one = next(iter(known.values()))
        who = f"all ranks stand in {_place(one)}" if len(known) > 1 else _where(one)
        return f"the run stands still: {who}"
    who = "; ".join(_where(known[rank]) if rank in known else f"rank {rank}, which never spoke" for rank in cause[:4])
    more = f"; and {len(cause) - 4} more" if len(cause) > 4 else ""
    verb = "does not answer any more, last seen:" if silent else "holds the others up:"
    return f"the run stands still: a process {verb} {who}{more}"


def _where(one: Standing) -> str:
    return f"rank {one.rank} ({one.host}, pid {one.pid}) in {_place(one)}"


def _place(one: Standing) -> str:
    return f"{one.stage} of step {one.step + 1} ({one.phase})" if one.phase else f"{one.stage}, before its first step"


def _row(rank: int, one: Standing | None, silent: list[int], cause: list[int], now: float) -> tuple[str, ...]:
    if one is None:
        return (str(rank), "?", "?", "?", "?", "?", "?", "never spoke")
    since = one.still_s + max(0.0, now - one.told_at)
    if rank in silent:
        note = f"silent for {max(0.0, now - one.told_at):.0f} s: stopped, gone or cut off"
    elif rank in cause:
        note = "behind"
    else:
        note = f"waits for {', '.join(map(str, cause))}" if cause else ""
    step, phase = (str(one.step + 1), one.phase) if one.phase else ("-", "-")
    return (str(rank), one.host, str(one.pid), step, phase, one.stage, f"{since:.0f} s", note)
