"""What `mixdist reproduce` is asked for, once its command line is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mixdist.paper.grid import Grid
from mixdist.paper.sets import Shelf


@dataclass(frozen=True)
class Order:
    """A grid, and how it is to be run."""

    whole: Grid
    chosen: Grid  #: the cells that the filters leave
    seeds: tuple[int, ...]
    changes: Mapping[str, str]  #: settings that every run is given, by dotted key
    share: float  #: --scale
    nproc: int
    part: tuple[int, int]  #: (K, N): every N-th run from the K-th on, which is 1 or more
    out: Path  #: folder of all grids
    shelf: Shelf

    @property
    def place(self) -> Path:
        """Folder of the grid's runs; a scaled grid has its own."""
        return self.out / (self.whole.name if self.share == 1 else f"{self.whole.name}-scale-{self.share:g}")
