"""A figure ready for the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """An inline SVG with its words, and the same figure for a file of its own."""

    title: str
    caption: str
    svg: str  #: follows the page's theme
    name: str = ""  #: of the files, without suffix
    alone: str = ""  #: SVG for a file, black on white
    png: bytes = b""
