"""matplotlib figures -> inline SVG that shares a page with others: unique ids, no outside reference, no date."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from html import escape
from io import BytesIO, StringIO

import matplotlib
from matplotlib.figure import Figure

from mixdist.report.picture import Picture

WIDTH = 4.8  #: inches, so that a figure as wide as a phone still has text about 9 px high
PNG_DPI = 200

INK, SOFT, EDGE, GRID, PAPER = "#222222", "#444444", "#555555", "#e6e6e6", "#ffffff"
# What page.css gives another value on a dark screen; colours of data stay as they are.
_THEME = {INK: "--ink", "#000000": "--ink", SOFT: "--soft", EDGE: "--soft", GRID: "--line", PAPER: "--card"}

_STYLE = {
    "font.size": 9.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the same bytes on every machine
    "text.parse_math": False,  # a "$" in a folder name is no formula
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": EDGE,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
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


def legend_columns(names: Iterable[str]) -> int:
    """Return how many columns a legend above a figure has room for: one a name where all fit side by side, or one."""
    lengths = [len(name) for name in names]
    return len(lengths) if sum(lengths) + 8 * len(lengths) <= 56 else 1


def draw(figure: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """Return a figure with its words, ready for the page and for files of its own."""
    png = BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    alone = _svg(figure, f"figure-{name}", alt)
    return Picture(title, caption, _themed(alone), name, alone + "\n", png.getvalue())


def _svg(figure: Figure, name: str, alt: str) -> str:
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


def _themed(svg: str) -> str:
    """Let the page's theme set the colours of ink, lines and paper."""

    def variable(found: re.Match[str]) -> str:
        return f"{found[1]}: var({_THEME[found[2]]}, {found[2]})"

    colours = "|".join(_THEME)
    # Text that no colour was given to is black by SVG's own rule.
    svg = svg.replace(' role="img"', ' role="img" fill="currentColor"', 1)
    return re.sub(rf"\b(fill|stroke): ({colours})\b", variable, svg)
