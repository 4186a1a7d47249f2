"""What a check found, and the way out where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    name: str
    state: State  #: "note" does not keep anyone from training; "fail" does, or will
    said: str
    mend: str = ""  #: what to do about it, where there is something to do
