"""How each group looks in every plot: a colour, marker and line style fixed by its arm, variants within an arm."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.colors import to_hex, to_rgb

from mixdist.report.summarise import Group

# Okabe and Ito's palette, distinct for colour-blind readers; markers and line styles tell the arms apart in print.
COLOURS = {"sl": "#009E73", "ssl+sl": "#0072B2", "mixtraining": "#D55E00"}
MARKERS = {"sl": "sDpP", "ssl+sl": "^v<>", "mixtraining": "ohX*"}
LINES = {"sl": (0, (1, 1.2)), "ssl+sl": (0, (5, 1.5)), "mixtraining": (0, ())}


@dataclass(frozen=True)
class Mark:
    """The look of one group."""

    colour: str  #: "#rrggbb"
    marker: str  #: matplotlib's letter
    line: tuple[int, tuple[float, ...]]  #: matplotlib's dash pattern
    name: str  #: the label, short: keys without their section, each on its own line


def marks(groups: list[Group]) -> dict[str, Mark]:
    """Return a mark for each group, by label. Groups of one arm differ in marker and in lightness."""
    looks: dict[str, Mark] = {}
    for arm in COLOURS:
        members = [group for group in groups if group.arm == arm]
        for place, group in enumerate(members):
            markers = MARKERS[arm]
            looks[group.label] = Mark(
                colour=_lighter(COLOURS[arm], 0.6 * place / len(members)),
                marker=markers[place % len(markers)],
                line=LINES[arm],
                name="\n".join(group.lines),
            )
    return looks


def _lighter(colour: str, share: float) -> str:
    """Mix a colour with white: 0 leaves it, 1 is white."""
    red, green, blue = (channel + (1 - channel) * share for channel in to_rgb(colour))
    return str(to_hex((red, green, blue)))
