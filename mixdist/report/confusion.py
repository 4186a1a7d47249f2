"""What test samples of each class were taken for, a matrix a group, added up over its seeds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mixdist.report.picture import Picture
from mixdist.report.summarise import Group
from mixdist.report.svg import draw, new_figure, style

MOST_CLASSES = 50  #: beyond that no cell of a figure as wide as a phone can be seen
MOST_NAMED = 20  #: classes whose names find room along an axis


def matrices(groups: list[Group]) -> list[Picture]:
    """Draw a matrix for each group whose runs have one, of at most ``MOST_CLASSES`` classes."""
    with style():
        drawn = []
        for number, group in enumerate(groups):
            found = [run.confusion for run in group.runs if run.confusion is not None]
            if found and len(found[0].classes) <= MOST_CLASSES and len({tuple(one.classes) for one in found}) == 1:
                counts = np.sum([one.counts for one in found], axis=0)
                drawn.append(_matrix(group.label, number, found[0].classes, counts))
        return drawn


def _matrix(label: str, number: int, classes: list[str], counts: npt.NDArray[np.int64]) -> Picture:
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(4.0, width=4.2)
    axes = figure.add_subplot(xlabel="taken for", ylabel="class")
    axes.grid(visible=False)
    drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    if len(classes) <= MOST_NAMED:
        axes.set_xticks(range(len(classes)), [_short(name) for name in classes], rotation=90)
        axes.set_yticks(range(len(classes)), [_short(name) for name in classes])
    if len(classes) <= 10:
        for row, column in np.ndindex(*shares.shape):
            colour = (
                "#111111" if shares[row, column] > 55 else "#fefefe"
            )  # on the map's own colours, whatever the theme
            axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=7.5)
    figure.colorbar(drawn, ax=axes, label="% of the class", shrink=0.8)
    return draw(
        figure, f"confusion-{number}", label, "Rows add up to 100 %, over all seeds.", _said(label, classes, shares)
    )


def _said(label: str, classes: list[str], shares: npt.NDArray[np.float64]) -> str:
    right = shares.diagonal()
    wrong = shares - np.diag(right)
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    lowest, highest = right.argmin(), right.argmax()
    return (
        f"Confusion matrix of {label}. Right from {right[lowest]:.0f} % ({classes[lowest]}) to {right[highest]:.0f} % "
        f"({classes[highest]}); {classes[row]} is taken for {classes[column]} in {wrong[row, column]:.0f} %."
    )


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
