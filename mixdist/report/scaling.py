"""The same training on more ranks: how much faster, how well the ranks are used, and whether accuracy stays."""

from __future__ import annotations

from dataclasses import dataclass

from mixdist.report.summarise import Group
from mixdist.report.table import seconds

HEADINGS = ("arm", "ranks", "latency s", "speed-up over fewest", "efficiency", "accuracy, points")
CAVEAT = (
    "Groups that differ in nothing but the number of ranks, against the fewest of them. Efficiency: speed-up over the "
    "ratio of ranks."
)


@dataclass(frozen=True)
class Scaled:
    """A group beside the one of its settings with the fewest ranks."""

    group: Group
    base: Group

    @property
    def speed_up(self) -> float:
        """Latency of the fewest ranks over this one."""
        return self.base.latency.mean / self.group.latency.mean

    @property
    def cells(self) -> tuple[str, ...]:
        """A text for each of ``HEADINGS``."""
        ranks, fewest = self.group.hardware[1], self.base.hardware[1]
        difference = self.group.accuracy.mean - self.base.accuracy.mean
        return (
            self.group.arm,
            str(ranks),
            seconds(self.group.latency.mean),
            f"{self.speed_up:.2f}×",
            f"{self.speed_up * fewest / ranks:.0%}",
            "" if self.group is self.base else f"{difference:+.2f}",
        )


def scaling(groups: list[Group]) -> list[Scaled]:
    """Return the groups of which there are others on another number of ranks, and else alike; fewest ranks first."""
    found = []
    for group in groups:
        alike = sorted((other for other in groups if _alike(group, other)), key=lambda other: other.hardware[1])
        if len(alike) > 1:
            found.append(Scaled(group, alike[0]))
    return sorted(found, key=lambda one: (groups.index(one.base), one.group.hardware[1]))


def _alike(group: Group, other: Group) -> bool:
    def rest(one: Group) -> dict[str, object]:
        return {key: value for key, value in one.settings.items() if key != "world_size"}

    return rest(group) == rest(other)
