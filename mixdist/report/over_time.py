"""Throughput and waiting for data through training: what the means of a whole run hide."""

from __future__ import annotations

from mixdist.engine.record import DATA_BOUND
from mixdist.report.losses import series
from mixdist.report.marks import Mark
from mixdist.report.picture import Picture
from mixdist.report.summarise import Group
from mixdist.report.svg import EDGE, draw, legend_columns, new_figure


def over_time(groups: list[Group], looks: dict[str, Mark]) -> list[Picture]:
    """Draw both over the training time of each group's first seed; nothing where no run has records."""
    drawn = [group for group in groups if group.runs[0].records]
    if not drawn:
        return []
    columns = legend_columns(looks[group.label].name for group in drawn)
    figure = new_figure(3.6 + 0.2 * len(drawn) / columns)
    speed, wait = figure.subplots(2, 1, sharex=True)
    for group in drawn:
        run, look = group.runs[0], looks[group.label]
        name = look.name.replace("\n", ", ")
        for axes, field, factor in ((speed, "images_per_s", 1.0), (wait, "data_wait", 100.0)):
            seconds, values = series(run, field, over="latency_s")
            axes.plot(seconds, factor * values, color=look.colour, linestyle=look.line, linewidth=1.4, label=name)
            name = "_"  # once in the legend
    speed.set_title("images/s", loc="left")
    wait.set_title("waiting for data, % of time", loc="left")
    wait.axhline(100 * DATA_BOUND, color=EDGE, linewidth=0.8, linestyle=":")
    wait.set_xlabel("training time, s")
    for axes in (speed, wait):
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    wait.set_ylim(top=max(10.0, wait.get_ylim()[1]))
    figure.legend(loc="outside upper left", ncols=columns, handlelength=3.2)
    said = "; ".join(f"{group.label}: {_range(group)}" for group in drawn)
    return [
        draw(
            figure,
            "throughput-time",
            "Throughput through training",
            f"First seed of each group; rank 0 waits. Above the dotted line ({DATA_BOUND:.0%}) a run is data-bound.",
            f"Throughput and share of waiting for data through training. {said}.",
        )
    ]


def _range(group: Group) -> str:
    speeds = [record.images_per_s for record in group.runs[0].records]
    longest = max(record.data_wait for record in group.runs[0].records)
    return f"{min(speeds):.0f} to {max(speeds):.0f} images/s, waiting at most {100 * longest:.0f} % of a window"
