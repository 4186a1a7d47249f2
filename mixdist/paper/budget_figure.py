"""The curve of a label budget: accuracy over labelled images, a line an arm."""

from __future__ import annotations

from mixdist.paper.budget_outcome import Point
from mixdist.report.marks import COLOURS, LINES, MARKERS
from mixdist.report.picture import Picture
from mixdist.report.summarise import ARMS
from mixdist.report.svg import inline_svg, new_figure, style


def draw(points: list[Point]) -> list[Picture]:
    """Draw accuracy over labelled images, a line an arm; nothing before a run has finished."""
    finished = [point for point in points if point.accuracy is not None]
    if not finished:
        return []
    said = []
    with style():
        figure = new_figure(3.6, width=6.0)
        axes = figure.add_subplot(xlabel="labelled images", ylabel="top-1 accuracy, %", xscale="log")
        for arm in ARMS:
            own = [(point.results, point.accuracy) for point in finished if point.arm == arm and point.accuracy]
            if not own:
                continue
            xs, means = [results[0].labelled for results, _ in own], [spread.mean for _, spread in own]
            lows = [min(result.accuracy for result in results) for results, _ in own]
            highs = [max(result.accuracy for result in results) for results, _ in own]
            axes.fill_between(xs, lows, highs, color=COLOURS[arm], alpha=0.15, linewidth=0)
            axes.plot(xs, means, color=COLOURS[arm], linestyle=LINES[arm], marker=MARKERS[arm][0], label=arm)
            said.append(f"{arm}: " + ", ".join(f"{y:.1f} % with {x}" for x, y in zip(xs, means, strict=True)))
        ticks = sorted({point.results[0].labelled for point in finished})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
        figure.legend(loc="outside upper center", ncols=3, handlelength=3.2)
        svg = inline_svg(figure, "figure-0", f"Accuracy over labelled images. {'; '.join(said)}.")
    return [Picture("Accuracy over labelled images", "Line: mean over seeds. Band: lowest to highest seed.", svg)]
