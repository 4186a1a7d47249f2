"""Learning rates and α over a whole run: as numbers, as a line of text and as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdist.files import atomic
from mixdist.plan import Group, Phase, Plan
from mixdist.report.svg import new_figure, style

BARS = "▁▂▃▄▅▆▇█"
LOOKS: dict[Group, tuple[str, str]] = {  # colour and dash: told apart in grey as well
    "backbone": ("#0072b2", "-"),
    "reconstruct": ("#d55e00", "--"),
    "classify": ("#f0e442", ":"),  # over B's, which it often follows
}
NAMES: dict[Group, str] = {"backbone": "backbone B", "reconstruct": "reconstruction R", "classify": "classification C"}


def rate(plan: Plan, step: int, group: Group) -> float | None:
    """Return the learning rate of a group at 0-based ``step`` of the run, None where its phase does not train it."""
    phase = phase_at(plan, step)
    drive = phase.drives.get(group)
    return drive.lr(step - phase.first_step) if drive else None


def phase_at(plan: Plan, step: int) -> Phase:
    """Return the phase of 0-based ``step`` of the run."""
    return next(phase for phase in reversed(plan.phases) if phase.first_step <= step)


def points(plan: Plan, most: int) -> list[int]:
    """Return up to ``most`` steps, evenly over the run, its first and last among them."""
    count = min(most, plan.steps)
    return [round(place * (plan.steps - 1) / max(1, count - 1)) for place in range(count)]


def sparkline(values: list[float | None], top: float) -> str:
    """Return a line of bars, a space where there is no value."""
    if not top:
        return ""
    return "".join(" " if value is None else BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values)


def draw(plan: Plan, path: Path) -> None:
    """Write the curves as a PNG."""
    with style():
        figure = new_figure(4.2, 6.4)
        rates, alphas = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for group, (colour, dash) in LOOKS.items():
            _line(rates, plan, group, colour, dash)
        for phase in plan.phases:
            steps = range(phase.first_step, phase.first_step + phase.steps)
            alphas.plot(
                steps, [phase.alpha.at(step - phase.first_step, phase.steps) for step in steps], color="#222222"
            )
            for axes in (rates, alphas):
                axes.axvline(phase.first_step, color="#aaaaaa", linewidth=0.8)
            rates.annotate(
                f" {phase.name}", (phase.first_step, 1), xycoords=("data", "axes fraction"), va="top", color="#444444"
            )
        rates.set(ylabel="learning rate", ylim=(0, None))
        alphas.set(ylabel="α", ylim=(-0.05, 1.05), xlabel="step")
        rates.legend(loc="upper right")
        _save(figure, path)


def _line(axes: Axes, plan: Plan, group: Group, colour: str, dash: str) -> None:
    label: str | None = NAMES[group]
    for phase in plan.phases:
        if drive := phase.drives.get(group):
            steps = range(phase.steps)
            at = [phase.first_step + step for step in steps]
            axes.plot(at, [drive.lr(step) for step in steps], color=colour, linestyle=dash, label=label)
            label = None


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
