"""A figure ready for the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """An inline SVG with its words."""

    title: str
    caption: str
    svg: str
