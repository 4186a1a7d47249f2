"""What was found, in plain sentences computed from the numbers, and what a reader must know before believing them."""

from __future__ import annotations

from collections import Counter

from mixdist.report.paired import RIVALS
from mixdist.report.summarise import Group, Spread, counterpart
from mixdist.report.table import seconds

_MOST_SENTENCES = 2
_STEADY = 0.1  # relative standard deviation of the training time above which a note warns
_OUTCOMES = (
    "more accurate by more than one standard deviation",
    "less accurate by more than one standard deviation",
    "undecided (a difference within one standard deviation, or one seed)",
)


def headline(groups: list[Group]) -> str:
    """Say how the best arm that has a rival compares with it: accuracy, spread, time."""
    for arm, rivals in RIVALS.items():
        for rival in rivals:
            pairs = [(group, _rival(group, rival, groups)) for group in groups if group.arm == arm]
            found = [(group, other) for group, other in pairs if other is not None]
            if len(found) > _MOST_SENTENCES:
                return _tally(arm, rival, found)
            if found:
                return " ".join(_compare(group, other) for group, other in found)
    each = "; ".join(f"{group.label}: {percent(group.accuracy)} ({seeds(len(group.runs))})" for group in groups)
    return f"{each}. No other arm with the same settings to compare with."


def notes(groups: list[Group]) -> list[str]:
    """Say what the table has no room for, and what limits the comparison: hardware, versions, repeated seeds."""
    said = [
        f"{group.label}, on the test split of task {name}: "
        f"{percent(Spread.of(run.result.tasks[name].accuracy for run in group.runs))}."
        for group in groups
        for name in group.runs[0].result.tasks
    ]
    hardware = dict.fromkeys(f"{size} × {device}" for device, size in (group.hardware for group in groups))
    if len(hardware) > 1:
        said.append(
            f"Measured on different hardware ({'; '.join(hardware)}). Times and throughputs of different devices or "
            f"world sizes are not comparable; a speed-up is given only within the same hardware."
        )
    for name in ("mixdist", "torch"):
        versions = {str(run.result.versions.get(name)) for group in groups for run in group.runs}
        if len(versions) > 1:
            said.append(f"Measured with different versions of {name}: {', '.join(sorted(versions))}.")
    single = [group.label for group in groups if len(group.runs) == 1]
    if single:
        said.append(f"One seed only, so no standard deviation: {'; '.join(single)}.")
    for group in groups:
        deviation = group.latency.deviation
        if deviation is not None and deviation > _STEADY * group.latency.mean:
            said.append(
                f"The training time of {group.label} varies by ± {seconds(deviation)} s between runs, so its time and "
                f"speed-up are uncertain; was the machine busy with other work?"
            )
        repeated = [seed for seed, times in Counter(run.result.seed for run in group.runs).items() if times > 1]
        if repeated:
            which = ", ".join(map(str, repeated))
            said.append(f"{group.label} holds seed {which} more than once; its runs are not independent.")
    return said


def percent(spread: Spread) -> str:
    """Return "71.2 % ± 0.6", or "71.2 %" for one value."""
    return f"{spread.mean:.1f} %" + ("" if spread.deviation is None else f" ± {spread.deviation:.1f}")


def seeds(count: int) -> str:
    """Return "1 seed" or "4 seeds"."""
    return "1 seed" if count == 1 else f"{count} seeds"


def _rival(group: Group, arm: str, groups: list[Group]) -> Group | None:
    return counterpart(group, arm, groups) or counterpart(group, arm, groups, same_hardware=False)


def _compare(group: Group, other: Group) -> str:
    counts = len(group.runs), len(other.runs)
    each = f"({seeds(counts[0])} each)" if counts[0] == counts[1] else f"({counts[0]} and {seeds(counts[1])})"
    if group.hardware == other.hardware:
        time = f"in {group.latency.mean / other.latency.mean:.2f} of its time"
    else:
        time = "on other hardware, so times are not compared"
    numbers = (
        f"{group.label}: {percent(group.accuracy)} against {other.label}: {percent(other.accuracy)} {each}, {time}."
    )
    return f"{numbers} {_verdict(group, other)}"


def _verdict(group: Group, other: Group) -> str:
    """Hold the difference against the larger of the two standard deviations."""
    difference = group.accuracy.mean - other.accuracy.mean
    deviations = [spread for spread in (group.accuracy.deviation, other.accuracy.deviation) if spread is not None]
    points = f"The difference of {difference:+.1f} points"
    if len(deviations) < 2:
        return f"{points} cannot be held against a spread with one seed; more seeds would be needed."
    if abs(difference) <= max(deviations):
        return f"{points} is within one standard deviation; more seeds would be needed."
    return f"{points} is larger than one standard deviation ({max(deviations):.1f})."


def _tally(arm: str, rival: str, pairs: list[tuple[Group, Group]]) -> str:
    """Count the outcomes where a sentence for each pair would be a wall of text."""
    outcomes: Counter[str] = Counter()
    for group, other in pairs:
        deviations = (group.accuracy.deviation, other.accuracy.deviation)
        difference = group.accuracy.mean - other.accuracy.mean
        if None in deviations or abs(difference) <= max(spread or 0.0 for spread in deviations):
            outcomes[_OUTCOMES[2]] += 1
        else:
            outcomes[_OUTCOMES[0 if difference > 0 else 1]] += 1
    ratios = [group.latency.mean / other.latency.mean for group, other in pairs if group.hardware == other.hardware]
    time = f", in {min(ratios):.2f} to {max(ratios):.2f} of its time" if ratios else ""
    counted = ", ".join(f"{what} in {outcomes[what]}" for what in _OUTCOMES if outcomes[what])
    return f"{arm} against {rival} in {len(pairs)} settings: {counted}{time}."
