"""What a check found: one line each, with how bad it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "info", "warning", "damaged"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on one split, or on the set."""

    level: Level
    where: str  #: the split, or "set"
    what: str  #: which check
    detail: str
