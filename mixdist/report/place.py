"""Labels beside points: each takes the first free place around its point."""

from __future__ import annotations

from typing import Any

from matplotlib.transforms import Bbox

# (x, y) offset in points and alignment, by preference.
_PLACES = (
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (9, 14, "left", "bottom"),
    (9, -14, "left", "top"),
    (-9, 14, "right", "bottom"),
    (-9, -14, "right", "top"),
    (9, 30, "left", "bottom"),
    (9, -30, "left", "top"),
)


def label_points(axes: Any, points: list[tuple[float, float]], texts: list[str]) -> None:
    """Write a text beside each point, off the other points and texts and inside the figure where there is room."""
    figure = axes.figure
    figure.draw_without_rendering()  # fixes the layout, so that extents are final
    taken = [_around(axes.transData.transform(point)) for point in points]
    inside = figure.bbox.padded(-2)
    for point, text in zip(points, texts, strict=True):
        note = axes.annotate(text, point, xytext=(0, 0), textcoords="offset points", annotation_clip=False)
        note.set_in_layout(False)
        best = min(_PLACES, key=lambda place: _cost(note, place, taken, inside))
        _move(note, best)
        taken.append(note.get_window_extent())


def _move(note: Any, place: tuple[float, float, str, str]) -> None:
    x, y, horizontal, vertical = place
    note.set(position=(x, y), horizontalalignment=horizontal, verticalalignment=vertical)


def _cost(note: Any, place: tuple[float, float, str, str], taken: list[Any], inside: Any) -> float:
    """Return the area that a place covers of what is taken or lies outside; 0 is free. Ties go to the first place."""
    _move(note, place)
    box = note.get_window_extent()
    hidden = sum(_area(box, other) for other in taken)
    return hidden + float(box.width * box.height) - _area(box, inside)


def _area(first: Any, second: Any) -> float:
    common = Bbox.intersection(first, second)
    return 0.0 if common is None else float(common.width * common.height)


def _around(centre: Any) -> Any:
    return Bbox.from_extents(centre[0] - 5, centre[1] - 5, centre[0] + 5, centre[1] + 5)
