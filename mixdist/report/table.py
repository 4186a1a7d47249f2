"""The comparison table as text cells, shared by the console, Markdown and the page."""

from __future__ import annotations

from dataclasses import dataclass

from mixdist.report.published import published
from mixdist.report.summarise import Group, Spread, speed_up

PHASES = ("ssl", "mix", "sl")  #: the order of a phases cell
HEADINGS = (
    *("arm", "labels", "seeds", "accuracy %", "latency s", "speed-up", "images/s", "world size", "device h", "paper %"),
    "ssl/mix/sl %",
)


@dataclass(frozen=True)
class Row:
    """One group."""

    cells: tuple[str, ...]  #: a text for each of ``HEADINGS``
    shares: dict[str, float]  #: phase -> share of the training time, 0 to 1


def rows(groups: list[Group]) -> list[Row]:
    """Return a row a group, in the order given."""
    return [_row(group, groups) for group in groups]


def seconds(value: float) -> str:
    """Return seconds with three digits or more: "12.3", "1234"."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _row(group: Group, groups: list[Group]) -> Row:
    result = group.runs[0].result
    gain = speed_up(group, groups)
    shares = group.shares
    return Row(
        cells=(
            group.label,
            f"{result.fraction * 100:g}% ({result.labelled})",
            str(len(group.runs)),
            _accuracy(group.accuracy),
            seconds(group.latency.mean),
            "n/a" if gain is None else f"{gain:.2f}×",
            seconds(group.images_per_s),
            str(result.world_size),
            _hours(group.device_hours),
            str(published(group) or "n/a"),
            "/".join(f"{shares.get(phase, 0.0) * 100:.0f}" for phase in PHASES),
        ),
        shares=shares,
    )


def _hours(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.1f}"


def _accuracy(spread: Spread) -> str:
    return f"{spread.mean:.1f}" if spread.deviation is None else f"{spread.mean:.1f} ± {spread.deviation:.1f}"
