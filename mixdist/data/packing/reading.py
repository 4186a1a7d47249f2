"""The options of `mixdist pack` that say how a source is read, and which kinds of source take which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixdist.errors import UserError

BELONGS_TO = {
    "root": "tables and torchvision:NAME",
    "path_column": "tables (.csv, .tsv or .parquet files)",
    "label_column": "tables (.csv, .tsv or .parquet files)",
    "download": "torchvision:NAME",
}


@dataclass(frozen=True)
class Reading:
    """How a source is read."""

    root: Path | None = None  #: what a table's paths are relative to; where a torchvision set lies
    path_column: str | None = None  #: None: "path"
    label_column: str | None = None  #: None: "label"
    download: bool = False  #: let torchvision fetch what ``root`` lacks
    skip_bad: bool = False  #: leave out what cannot be used, of any kind of source, instead of refusing the source

    def refuse_all_but(self, source: str, *taken: str) -> None:
        """Refuse options that were given and that this kind of source does not take, with a ``UserError``."""
        for name, sources in BELONGS_TO.items():
            if name not in taken and getattr(self, name):
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} makes no sense for SOURCE {source}; it belongs to {sources}; leave it out")


NOTHING_SAID = Reading()
