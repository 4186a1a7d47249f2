"""matplotlib figures -> inline SVG that shares a page with others: unique ids, no outside reference, no date."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from html import escape
from io import StringIO

import matplotlib
from matplotlib.figure import Figure

WIDTH = 4.8  #: inches, so that a figure as wide as a phone still has text about 9 px high

_STYLE = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the same bytes on every machine
    "text.parse_math": False,  # a "$" in a folder name is no formula
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",  # outlines: a page looks the same where the font is missing
}


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made and saved."""
    context: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return context


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, sizes in inches, that is laid out without overlaps."""
    return Figure(figsize=(width, height), layout="constrained")


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return the figure as an ``<svg>`` element; ``name`` is unique on the page and prefixes all ids in it."""
    buffer = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # clip and marker ids are random without it
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :].rstrip()
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="|href="#|url\(#', lambda found: f"{found[0]}{name}-", text)
    text = text.replace("*{", f"#{name} *{{")  # matplotlib's style rule would hold for the whole page
    opening = f'<svg id="{name}" role="img" aria-label="{escape(alt)}"'
    return re.sub(r'^<svg (.*?) width="[\d.]+pt" height="[\d.]+pt"', lambda found: f"{opening} {found[1]}", text)
