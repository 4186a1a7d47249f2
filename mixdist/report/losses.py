"""The loss terms of each group's first seed through its phases."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mixdist.report.picture import Picture
from mixdist.report.run import Run
from mixdist.report.summarise import Group
from mixdist.report.svg import EDGE, SOFT, draw, new_figure, style

MOST_POINTS = 300
_TERMS = (
    ("loss_ssl", "reconstruction error, ℓ_ssl", "#56B4E9"),
    ("loss_sl", "cross-entropy, ℓ_sl", SOFT),
)


def losses(groups: list[Group]) -> list[Picture]:
    """Draw a figure for each group whose first seed has records."""
    with style():
        return [_losses(group, number) for number, group in enumerate(groups) if group.runs[0].records]


def _losses(group: Group, number: int) -> Picture:
    """Draw both loss terms of the group's first seed, one above the other, with the borders of the phases."""
    run = group.runs[0]
    terms = [(title, colour, *found) for field, title, colour in _TERMS if len((found := series(run, field))[0])]
    figure = new_figure(0.5 + 1.5 * len(terms), width=4.2)
    panels = figure.subplots(len(terms), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, colour, steps, values) in zip(panels, terms, strict=True):
        axes.plot(steps, values, color=colour)
        axes.set_title(title, loc="left")
        axes.set_xlim(0, run.records[-1].step)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.15 * (high - low))  # room for the names of the phases
        _mark_phases(axes, run)
    panels[-1].set_xlabel("step")
    said = "; ".join(f"{title}: from {values[0]:.3g} to {values[-1]:.3g}" for title, _, _, values in terms)
    return draw(
        figure,
        f"losses-{number}",
        group.label,
        f"Seed {run.result.seed}. Dotted lines are phase borders."
        + (f" Means over blocks: at most {MOST_POINTS} points." if len(run.records) > MOST_POINTS else ""),
        f"Loss terms of {group.label}. {said}.",
    )


def series(run: Run, field: str, over: str = "step") -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return places (steps, or another field) and values, [points] each, averaged in blocks where there are many."""
    pairs = [
        (getattr(record, over), getattr(record, field)) for record in run.records if getattr(record, field) is not None
    ]
    if not pairs:
        return np.empty(0), np.empty(0)
    blocks = np.array_split(np.array(pairs, dtype=np.float64), min(len(pairs), MOST_POINTS))
    means = np.array([block.mean(axis=0) for block in blocks])
    return means[:, 0], means[:, 1]


def _mark_phases(axes: Any, run: Run) -> None:
    start = 0
    for name, phase in run.result.phases.items():
        if start:
            axes.axvline(start, color=EDGE, linestyle=":", linewidth=1.2)
        middle = start + phase.steps / 2
        axes.text(middle, 0.97, name.upper(), transform=axes.get_xaxis_transform(), ha="center", va="top", color=EDGE)
        start += phase.steps
