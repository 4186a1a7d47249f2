"""Throughput, and what feeding cost, through training: what the means of a whole run hide."""

from __future__ import annotations

from typing import NamedTuple

from mixdist.engine.record import DATA_BOUND
from mixdist.report.losses import series
from mixdist.report.marks import Mark
from mixdist.report.picture import Picture
from mixdist.report.summarise import Group
from mixdist.report.svg import EDGE, draw, legend_columns, new_figure


class Panel(NamedTuple):
    """One measure of the figure."""

    field: str  #: of the record
    title: str
    said: str  #: what its largest value is said to be
    factor: float = 100.0


WAIT = Panel("data_wait", "waiting for data, % of time", "waiting at most {:.0f} % of a window")
PANELS = (
    Panel("images_per_s", "images/s", "", factor=1.0),
    WAIT,
    Panel("decode", "workers busy decoding, % of time", "workers busy at most {:.0f} %"),
    Panel("host_to_device", "copies to the device, % of time", "copies at most {:.0f} %"),
)


def over_time(groups: list[Group], looks: dict[str, Mark]) -> list[Picture]:
    """Draw them over the training time of each group's first seed; nothing where no run has records.

    Decoding and copies are drawn where there were any: of sets that are kept decoded, and on a CPU, there are none.
    """
    drawn = [group for group in groups if group.runs[0].records]
    if not drawn:
        return []
    panels = [panel for panel in PANELS if panel in PANELS[:2] or any(_largest(group, panel) for group in drawn)]
    columns = legend_columns(looks[group.label].name for group in drawn)
    figure = new_figure(1.8 * len(panels) + 0.2 * len(drawn) / columns)
    rows = dict(zip(panels, figure.subplots(len(panels), 1, sharex=True), strict=True))
    for group in drawn:
        run, look = group.runs[0], looks[group.label]
        name = look.name.replace("\n", ", ")
        for panel, axes in rows.items():
            seconds, values = series(run, panel.field, over="latency_s")
            axes.plot(seconds, panel.factor * values, color=look.colour, linestyle=look.line, linewidth=1.4, label=name)
            name = "_"  # once in the legend
    rows[WAIT].axhline(100 * DATA_BOUND, color=EDGE, linewidth=0.8, linestyle=":")
    for panel, axes in rows.items():
        axes.set_title(panel.title, loc="left")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if panel.factor == 100.0:  # a share: one of 0.1 % should not look like a long one
            axes.set_ylim(top=max(10.0, axes.get_ylim()[1]))
    rows[panels[-1]].set_xlabel("training time, s")
    figure.legend(loc="outside upper left", ncols=columns, handlelength=3.2)
    said = "; ".join(f"{group.label}: {_range(group, panels[1:])}" for group in drawn)
    return [
        draw(
            figure,
            "throughput-time",
            "Throughput through training",
            f"First seed of each group, on rank 0. Above the dotted line ({DATA_BOUND:.0%}) a run is data-bound.",
            f"Throughput and {', '.join(panel.title.removesuffix(', % of time') for panel in panels[1:])} through "
            f"training. {said}.",
        )
    ]


def _range(group: Group, shares: list[Panel]) -> str:
    speeds = [record.images_per_s for record in group.runs[0].records]
    longest = [panel.said.format(panel.factor * _largest(group, panel)) for panel in shares]
    return ", ".join([f"{min(speeds):.0f} to {max(speeds):.0f} images/s", *longest])


def _largest(group: Group, panel: Panel) -> float:
    """Return a measure's largest value in the first seed's records; runs of before it was measured have none."""
    return max(getattr(record, panel.field) or 0.0 for record in group.runs[0].records)
