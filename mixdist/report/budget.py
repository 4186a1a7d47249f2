"""The label-budget curve: accuracy over the number of labels, where the runs of an arm differ in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mixdist.report.marks import COLOURS, LINES, MARKERS
from mixdist.report.picture import Picture
from mixdist.report.summarise import ARMS, Group, Spread
from mixdist.report.svg import draw, new_figure

_BUDGET = {"data.fraction", "data.labelled_fraction", "data.sl"}  #: settings that change how many labels there are


def label_budget(groups: list[Group]) -> list[Picture]:
    """Draw a line an arm; nothing where no arm was trained with two numbers of labels and else the same settings."""
    curves = {arm: _points([group for group in groups if group.arm == arm]) for arm in ARMS}
    curves = {arm: points for arm, points in curves.items() if len(points) > 1}
    if not curves:
        return []
    return [
        budget_curve(
            {
                arm: [(group.runs[0].result.labelled, group.accuracy) for group in points]
                for arm, points in curves.items()
            }
        )
    ]


def budget_curve(curves: Mapping[str, Sequence[tuple[int, Spread]]]) -> Picture:
    """Draw a line an arm through (labelled images, accuracy in percent), ascending; within `style`."""
    figure = new_figure(3.4)
    axes = figure.add_subplot(xlabel="labelled images", ylabel="top-1 accuracy, %", xscale="log")
    for arm, points in curves.items():
        axes.errorbar(
            [labelled for labelled, _ in points],
            [accuracy.mean for _, accuracy in points],
            [accuracy.deviation or 0.0 for _, accuracy in points],
            None,
            color=COLOURS[arm],
            ls=LINES[arm],
            marker=MARKERS[arm][0],
            capsize=3,
            label=arm,
        )
    ticks = sorted({labelled for points in curves.values() for labelled, _ in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    figure.legend(loc="outside upper left", ncols=3, handlelength=3.2)
    said = "; ".join(
        f"{arm}: " + ", ".join(f"{accuracy.mean:.1f} % with {labelled:,}" for labelled, accuracy in points)
        for arm, points in curves.items()
    )
    return draw(
        figure,
        "label-budget",
        "Label budget",
        "Accuracy over the number of labelled images; bars are one standard deviation over seeds.",
        f"Accuracy over the number of labelled images. {said}.",
    )


def _points(groups: list[Group]) -> list[Group]:
    """Return an arm's groups by their number of labels; none where they differ in something else too."""
    if any(set(group.differs) - _BUDGET for group in groups):
        return []
    return sorted(groups, key=lambda group: group.runs[0].result.labelled)
