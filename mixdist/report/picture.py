"""A figure ready for the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixdist.files import atomic, write_text


@dataclass(frozen=True)
class Picture:
    """An inline SVG with its words, and the same figure for a file of its own."""

    title: str
    caption: str
    svg: str  #: follows the page's theme
    name: str = ""  #: of the files, without suffix
    alone: str = ""  #: SVG for a file, black on white
    png: bytes = b""

    def save(self, folder: Path) -> None:
        """Write it into a folder as NAME.svg and NAME.png, each whole or not at all."""
        write_text(folder / f"{self.name}.svg", self.alone)
        with atomic(folder / f"{self.name}.png") as file:
            file.write(self.png)
