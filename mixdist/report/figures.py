"""The plots of a comparison: accuracy against time, learning curves and throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from mixdist.report.budget import label_budget
from mixdist.report.marks import Mark, marks
from mixdist.report.over_time import over_time
from mixdist.report.picture import Picture
from mixdist.report.place import label_points
from mixdist.report.run import Run
from mixdist.report.summarise import Group
from mixdist.report.svg import EDGE, draw, legend_columns, new_figure, style
from mixdist.report.words import percent


@dataclass(frozen=True)
class Curve:
    """Evaluations of a group, at the epochs that all its runs evaluated."""

    epochs: npt.NDArray[np.int64]  #: [points], 1-based, over the whole run
    seconds: npt.NDArray[np.float64]  #: [points], training time, mean over runs
    accuracy: npt.NDArray[np.float64]  #: [runs, points], percent


def figures(groups: list[Group]) -> list[Picture]:
    """Draw what compares all groups; runs without metrics.jsonl have no curves."""
    with style():
        looks = marks(groups)
        drawn = [_accuracy_against_time(groups, looks)]
        curves = {group.label: curve for group in groups if (curve := _curve(group)) is not None}
        if curves:
            drawn += [_learning_curves(curves, looks, by_time) for by_time in (False, True)]
        return [*drawn, *label_budget(groups), _throughput(groups, looks), *over_time(groups, looks)]


def _accuracy_against_time(groups: list[Group], looks: dict[str, Mark]) -> Picture:
    figure = new_figure(3.4)
    axes = figure.add_subplot(xlabel="training time, s", ylabel="top-1 accuracy, %")
    axes.margins(0.16)
    for group in groups:
        look = looks[group.label]
        results = [run.result for run in group.runs]
        times, scores = [one.latency_s for one in results], [one.accuracy for one in results]
        axes.scatter(times, scores, s=22, marker=look.marker, color=look.colour, alpha=0.55, linewidths=0)
    means = [(group.latency.mean, group.accuracy.mean) for group in groups]
    for group, (x, y) in zip(groups, means, strict=True):
        look = looks[group.label]
        axes.scatter([x], [y], s=95, marker=look.marker, color=look.colour, edgecolors="black", linewidths=0.9)
    front = pareto_front(means)
    axes.step(*zip(*(means[number] for number in front), strict=True), where="post", color=EDGE, linewidth=1, zorder=1)
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    label_points(axes, means, [looks[group.label].name for group in groups])
    said = "; ".join(f"{group.label}: {percent(group.accuracy)} after {group.latency.mean:.1f} s" for group in groups)
    best = "; ".join(groups[number].label for number in front)
    return draw(
        figure,
        "accuracy-time",
        "Accuracy against training time",
        "Up and to the left is better. A small mark is one seed, the large one the mean. The line joins the Pareto "
        "front: no other mean is at least as fast and more accurate.",
        f"Accuracy against training time. {said}. On the Pareto front: {best}.",
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of the points (seconds, accuracy) that no other beats in both, fastest first."""
    front: list[int] = []
    for number in sorted(range(len(points)), key=lambda number: (points[number][0], -points[number][1])):
        if not front or points[number][1] > points[front[-1]][1]:
            front.append(number)
    return front


def _curve(group: Group) -> Curve | None:
    evaluated = [
        {record.epoch: (record.latency_s, record.accuracy) for record in run.records if record.accuracy is not None}
        for run in group.runs
    ]
    epochs = sorted(set.intersection(*(set(one) for one in evaluated)))
    if not epochs:
        return None
    table = np.array([[one[epoch] for epoch in epochs] for one in evaluated])  # [runs, points, (seconds, accuracy)]
    return Curve(np.array(epochs), table[:, :, 0].mean(axis=0), table[:, :, 1])


def _learning_curves(curves: dict[str, Curve], looks: dict[str, Mark], by_time: bool) -> Picture:
    columns = legend_columns(looks[label].name for label in curves)
    figure = new_figure(3.2 + 0.2 * len(curves) / columns)
    what = "training time, s" if by_time else "epoch, over the whole run"
    axes = figure.add_subplot(xlabel=what, ylabel="top-1 accuracy, %")
    for label, curve in curves.items():
        look = looks[label]
        x = curve.seconds if by_time else curve.epochs
        mean = curve.accuracy.mean(axis=0)
        axes.fill_between(
            x, curve.accuracy.min(axis=0), curve.accuracy.max(axis=0), color=look.colour, alpha=0.15, linewidth=0
        )
        every = max(1, len(x) // 8)
        name = look.name.replace("\n", ", ")
        axes.plot(x, mean, color=look.colour, linestyle=look.line, marker=look.marker, markevery=every, label=name)
    axes.set_xlim(left=0)
    figure.legend(loc="outside upper left", ncols=columns, handlelength=3.2)
    title = f"Learning curves against {'training time' if by_time else 'epochs'}"
    said = "; ".join(f"{label} ends at {curve.accuracy[:, -1].mean():.1f} %" for label, curve in curves.items())
    return draw(
        figure,
        f"curves-{'time' if by_time else 'epoch'}",
        title,
        "Line: mean over seeds. Band: lowest to highest seed. Evaluation time is not counted. "
        "Phases without a classifier to evaluate leave no points.",
        f"{title}. {said}.",
    )


def _throughput(groups: list[Group], looks: dict[str, Mark]) -> Picture:
    figure = new_figure(1.3 + 0.42 * sum(looks[group.label].name.count("\n") + 1 for group in groups))
    speed, wait = figure.subplots(1, 2, sharey=True)
    places = list(range(len(groups)))
    names, colours = [looks[group.label].name for group in groups], [looks[group.label].colour for group in groups]
    waits = [100 * fmean(_data_wait(run) for run in group.runs) for group in groups]
    for axes, values, title in (
        (speed, [group.images_per_s for group in groups], "images/s"),
        (wait, waits, "waiting, % of time"),
    ):
        bars = axes.barh(places, values, color=colours, height=0.55)
        axes.bar_label(bars, fmt="%.3g" if axes is wait else "%.0f", padding=3)
        axes.set_title(title)
        axes.margins(x=0.28)
        axes.grid(visible=False)
        axes.tick_params(left=False)
    wait.set_xlim(0, max(5.0, 1.3 * max(waits)))  # so that a wait of 0.1 % does not look like a long one
    speed.set_yticks(places, names)
    speed.invert_yaxis()
    said = "; ".join(
        f"{group.label}: {group.images_per_s:.0f} images/s, {share:.1f} % of the time waiting for data"
        for group, share in zip(groups, waits, strict=True)
    )
    return draw(
        figure,
        "throughput",
        "Throughput",
        "Training images per second over all ranks, and the share of training time that rank 0 waited for data.",
        f"Throughput. {said}.",
    )


def _data_wait(run: Run) -> float:
    """Return the share of the training time that was spent waiting; 0 without records."""
    before = 0.0
    waited = 0.0
    for record in run.records:
        waited += record.data_wait * (record.latency_s - before)
        before = record.latency_s
    return waited / before if before else 0.0
