"""Figure 1, for any grid that has latencies: accuracy against training time, ours and the paper's side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import LogLocator, NullLocator

from mixdist.paper.cells import Cell
from mixdist.paper.outcome import Outcome, Row, scales_of
from mixdist.report.marks import COLOURS, LINES, MARKERS
from mixdist.report.picture import Picture
from mixdist.report.place import label_points
from mixdist.report.svg import draw as drawn
from mixdist.report.svg import new_figure, style

LOG_FROM = 6  # ratio of the longest to the shortest time from which the axis is logarithmic

Point = tuple[float, float]  # training seconds, accuracy in percent


@dataclass(frozen=True)
class Line:
    """The points of one arm, over epochs or over the share of the data."""

    arm: str
    points: tuple[Point, ...]
    labels: tuple[str, ...]  #: one a point, most of them empty


def draw(outcome: Outcome) -> list[Picture]:
    """Draw a picture for each backbone and pair of sets; none for a grid whose latencies the paper does not give."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in outcome.rows:
        if row.cell.latency_s is not None:
            together.setdefault((row.cell.backbone, row.cell.ssl_dataset, row.cell.sl_dataset), []).append(row)
    with style():
        return [_picture(*key, rows) for key, rows in together.items()]


def _picture(backbone: str, ssl: str, sl: str, rows: list[Row]) -> Picture:
    figure = new_figure(3.6, width=7.2)
    panels = figure.subplots(1, 2)
    said = []
    entries = [entry for row in rows for entry in row.entries]
    own = ", ".join(["ours", *(f"scaled by {scale:g}" for scale in scales_of(entries))])
    own += ", of fewer images" if any(entry.about["notes"] for entry in entries) else ""
    for axes, title, point in zip(panels, (own, "the paper's"), (_ours, _papers), strict=True):
        lines = _lines(rows, point)
        axes.set(title=title, xlabel="training time, s")
        _panel(axes, lines)
        said += [
            f"{title}, {line.arm}: " + ", ".join(f"{y:.1f} % after {x:.0f} s" for x, y in line.points) for line in lines
        ]
    sets = sl if ssl == sl else f"{ssl}-to-{sl}"
    arms = [arm for arm in COLOURS if any(row.cell.arm == arm for row in rows)]
    handles = [
        panels[0].plot([], [], color=COLOURS[arm], marker=MARKERS[arm][0], linestyle=LINES[arm])[0] for arm in arms
    ]
    figure.legend(handles, arms, loc="outside upper center", ncols=len(arms), handlelength=3.2)
    panels[0].set_ylabel("top-1 accuracy, %")
    what = "epochs" if _over_epochs(rows) else "share of the data"
    return drawn(
        figure,
        f"{backbone}-{sets}",
        f"Accuracy against training time: {backbone} on {sets}",
        f"Up and to the left is better. Points of a line differ in {what}. The machines differ, so hold the shapes "
        f"against each other, not the seconds.",
        f"Accuracy against training time. {'; '.join(said)}.",
    )


def _panel(axes: Any, lines: Sequence[Line]) -> None:
    times = [x for line in lines for x, _ in line.points]
    if not times:
        axes.text(0.5, 0.5, "no run has finished", transform=axes.transAxes, ha="center", va="center")
        axes.set(xticks=[], yticks=[])
        return
    for line in lines:
        xs, ys = zip(*line.points, strict=True)
        axes.plot(xs, ys, color=COLOURS[line.arm], marker=MARKERS[line.arm][0], linestyle=LINES[line.arm], markersize=5)
    if max(times) > LOG_FROM * min(times):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(0.18, 0.1)
    labels = [label for line in lines for label in line.labels]  # an empty one keeps the others off its point
    label_points(axes, [point for line in lines for point in line.points], labels)


def _lines(rows: list[Row], point: Callable[[Row], Point | None]) -> list[Line]:
    epochs = _over_epochs(rows)

    def key(cell: Cell) -> tuple[str, float]:
        return cell.arm, cell.fraction if epochs else 0.0

    found: dict[tuple[str, float], list[tuple[Cell, Point]]] = {}
    for row in rows:
        if (place := point(row)) is not None:
            found.setdefault(key(row.cell), []).append((row.cell, place))
    lines = []
    for (arm, fraction), members in found.items():
        members.sort(key=lambda member: (member[0].epochs, member[0].fraction))
        if epochs:  # the last point names the line
            labels = [""] * (len(members) - 1) + [f"{100 * fraction:g} %"]
        else:  # the shares are the same for all arms: one arm names them
            labels = [f"{100 * cell.fraction:g} %" if arm == "mixtraining" else "" for cell, _ in members]
        lines.append(Line(arm, tuple(place for _, place in members), tuple(labels)))
    return lines


def _over_epochs(rows: list[Row]) -> bool:
    return len({row.cell.epochs for row in rows}) > 1


def _ours(row: Row) -> Point | None:
    return None if row.accuracy is None or row.latency is None else (row.latency.mean, row.accuracy.mean)


def _papers(row: Row) -> Point | None:
    cell = row.cell
    return None if cell.accuracy is None or cell.latency_s is None else (cell.latency_s, cell.accuracy)
