"""Is one arm better than another? A paired t-test over the seeds that both were trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from mixdist.report.summarise import Group, counterpart

RIVALS = {"mixtraining": ("ssl+sl", "sl"), "ssl+sl": ("sl",), "sl": ()}  #: arm -> those that it is held against
LEVEL = 0.95  #: of the interval
CAVEAT = (
    "Paired t-test over common seeds, two-sided; it takes differences between seeds as normal, and p is not corrected "
    "for the number of lines."
)


@dataclass(frozen=True)
class Paired:
    """Two groups held against each other, seed by seed."""

    group: Group
    other: Group
    seeds: tuple[int, ...]  #: common to both; at least one
    mean: float  #: accuracy of the group minus that of the other, percentage points
    interval: tuple[float, float] | None  #: of the mean, at ``LEVEL``; None for one seed
    p: float | None  #: None for one seed, or where the difference is the same at each

    @property
    def cells(self) -> tuple[str, ...]:
        """A text for each of ``HEADINGS``."""
        interval = "n/a" if self.interval is None else "{:+.2f} to {:+.2f}".format(*self.interval)
        names = (self.group.label, self.other.label)
        return (*names, ", ".join(map(str, self.seeds)), f"{self.mean:+.2f}", interval, show_p(self.p))

    @property
    def sentence(self) -> str:
        """One line: who against whom, by how much, and how sure that is."""
        count = len(self.seeds)
        said = f"{self.group.label} against {self.other.label}: {self.mean:+.2f} points over {count} common "
        said += "seed" if count == 1 else "seeds"
        if self.interval is None:
            return f"{said}; one seed says nothing of chance"
        if self.p is None:
            return f"{said}, the same at each"
        low, high = self.interval
        return f"{said} ({LEVEL:.0%} interval {low:+.2f} to {high:+.2f}, paired t-test p {show_p(self.p, '= ')})"


HEADINGS = ("arm", "against", "common seeds", "difference, points", f"{LEVEL:.0%} interval", "p")


def comparisons(groups: list[Group]) -> list[Paired]:
    """Hold each group against those of other arms that share its settings and at least a seed."""
    found = []
    for group in groups:
        for arm in RIVALS[group.arm]:
            other = counterpart(group, arm, groups) or counterpart(group, arm, groups, same_hardware=False)
            pair = paired(group, other) if other else None
            if pair:
                found.append(pair)
    return found


def paired(group: Group, other: Group) -> Paired | None:
    """Test two groups over their common seeds; None where there is none. Runs of one seed count as their mean."""
    ours, theirs = _by_seed(group), _by_seed(other)
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        return None
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    mean = fmean(differences)
    if len(seeds) == 1:
        return Paired(group, other, seeds, mean, None, None)
    error = stdev(differences) / math.sqrt(len(seeds))
    if error < 1e-9:  # accuracies are counts over the test samples: differences may well be equal
        return Paired(group, other, seeds, mean, (mean, mean), None)
    from scipy.special import stdtr, stdtrit

    freedom = len(seeds) - 1
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Paired(
        group, other, seeds, mean, (mean - reach, mean + reach), float(2 * stdtr(freedom, -abs(mean) / error))
    )


def show_p(p: float | None, equals: str = "") -> str:
    """Return a p value with two digits."""
    if p is None:
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{equals}{p:.2g}"


def _by_seed(group: Group) -> dict[int, float]:
    scores: dict[int, list[float]] = {}
    for run in group.runs:
        scores.setdefault(run.result.seed, []).append(run.result.accuracy)
    return {seed: fmean(found) for seed, found in scores.items()}
