"""Samples that cannot be read: what becomes of them, counted alike on every rank, and the limit that ends a run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from mixdist.data.reading.reader import Unread
from mixdist.errors import DataError
from mixdist.files import write_text
from mixdist.world import World

Policy = Literal["error", "skip", "quarantine"]
LISTED = 20  # rows of the table that ends a run


@dataclass(frozen=True)
class BadSample:
    """One line of quarantine.jsonl."""

    shard: str  #: where the shard lies
    key: str
    offset: int  #: first byte of the content in the shard
    reason: str  #: "checksum" or "undecodable"
    detail: str


@dataclass
class BadSamples:
    """All bad samples of a run. Ranks note what they meet, and `agree` on it at every record."""

    policy: Policy
    limit: float  #: below 1 a share of the samples, from 1 on a count
    samples: int  #: that take part in the run
    quarantine: Path | None  #: file to list them in under the policy "quarantine"; None on all ranks but the first
    found: dict[str, BadSample] = field(default_factory=dict)  #: by shard and offset, the same on every rank
    _fresh: dict[str, BadSample] = field(default_factory=dict)

    def note(self, unread: list[Unread]) -> None:
        """Take what a batch could not read.

        Raises:
            DataError: under the policy "error", naming the sample.
        """
        for one in unread:
            if self.policy == "error":
                raise DataError(
                    f"{one}; copy or pack the shard again, or go on without such samples (data.bad_samples skip or "
                    f"quarantine)"
                )
            if (name := f"{one.shard}@{one.offset}") not in self.found:
                self._fresh[name] = BadSample(one.shard, one.key, one.offset, one.reason, one.detail)

    def note_draw(self, error: DataError) -> None:
        """Take what a draw from tars without an index could not read.

        Raises:
            DataError: under the policy "error".
        """
        if self.policy == "error":
            raise error
        self._fresh[str(error)] = BadSample("", "", -1, "undecodable", str(error))

    def agree(self, world: World) -> None:
        """Bring what all ranks noted since the last call together; all ranks call it at the same step.

        Raises:
            DataError: on all ranks, where there are more bad samples than the limit allows.
        """
        noted, self._fresh = self._fresh, {}
        if self.policy == "error" or not int(world.sum(torch.tensor(len(noted), device=world.device))):
            return
        fresh: dict[str, BadSample] = {}
        for of_rank in world.gather(noted):
            fresh |= of_rank
        new = {name: fresh[name] for name in sorted(fresh) if name not in self.found}
        self.found |= new
        self._list_all()
        if len(self.found) > self.allowed:
            raise DataError(
                f"{len(self.found)} of {self.samples} samples cannot be read, more than data.bad_limit {self.limit:g} "
                f"allows ({self.allowed}): repair the set, or raise the limit\n{self.table()}"
            ).everywhere()

    @property
    def allowed(self) -> int:
        """How many bad samples the run goes on with."""
        return int(self.limit) if self.limit >= 1 else int(self.limit * self.samples)

    def table(self) -> str:
        """Return the counts by reason and shard, the most first."""
        counts = Counter((bad.reason, bad.shard) for bad in self.found.values()).most_common()
        rows = [f"  {count:6}  {reason:<12} {shard}" for (reason, shard), count in counts[:LISTED]]
        return "\n".join(rows + ([f"  and {len(counts) - LISTED} more rows"] if len(counts) > LISTED else []))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: asdict(bad) for name, bad in self.found.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept; lines that were written after it go, as their samples are met again."""
        self.found = {name: BadSample(**bad) for name, bad in state.items()}
        self._list_all()

    def _list_all(self) -> None:
        if self.policy == "quarantine" and self.quarantine:
            write_text(self.quarantine, "".join(json.dumps(asdict(bad)) + "\n" for bad in self.found.values()))
