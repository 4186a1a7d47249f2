"""The comparison as one self-contained HTML page: no script, no outside resource, all text from runs escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from mixdist.report import sections
from mixdist.report.collect import Found
from mixdist.report.confusion import matrices
from mixdist.report.figures import figures
from mixdist.report.losses import losses
from mixdist.report.marks import marks
from mixdist.report.picture import Picture
from mixdist.report.summarise import Group
from mixdist.report.words import headline, notes, seeds

MOST_PICTURES = 6  #: of one run through its training


@dataclass(frozen=True)
class Drawn:
    """All figures of a comparison, by the section they stand in."""

    figures: list[Picture]
    losses: list[Picture]
    confusion: list[Picture]

    def all(self) -> list[Picture]:
        """Return them in the order of the page."""
        return [*self.figures, *self.losses, *self.confusion]


def drawn(groups: list[Group]) -> Drawn:
    """Draw what the page shows."""
    return Drawn(figures(groups), losses(groups), matrices(groups))


def page(groups: list[Group], found: Found, pictures: Drawn | None = None) -> str:
    """Return the page. It holds no date and no random id: the same runs give the same bytes."""
    pictures = pictures or drawn(groups)
    template = files("mixdist.report").joinpath("page.html").read_text(encoding="utf-8")
    remarks = "".join(f"<li>{escape(note)}</li>" for note in notes(groups))
    return Template(template).substitute(
        style=style_sheet(),
        scope=escape(_scope(groups)),
        headline=escape(headline(groups)),
        notes=f'<ul class="notes">{remarks}</ul>' if remarks else "",
        results=sections.results(groups, {label: look.colour for label, look in marks(groups).items()}),
        figures=_grid("Figures", map(figure_card, pictures.figures)),
        losses=_grid("Loss terms", map(figure_card, pictures.losses), "small"),
        confusion=_grid("Confusion matrices", map(figure_card, pictures.confusion), "small"),
        reconstructions=_reconstructions(groups),
        pairs=sections.pairs(groups),
        ranks=sections.ranks(groups),
        configuration=sections.configuration(groups),
        runs=sections.runs(groups),
        commands=escape(sections.commands(groups)),
        versions=sections.versions(found.runs),
        left_out=sections.left_out(found.left_out),
    )


def style_sheet() -> str:
    """Return the CSS of every page that mixdist writes."""
    return files("mixdist.report").joinpath("page.css").read_text(encoding="utf-8")


def _scope(groups: list[Group]) -> str:
    results = [run.result for group in groups for run in group.runs]
    data = ", ".join(dict.fromkeys(result.data for result in results))
    backbones = ", ".join(dict.fromkeys(result.backbone for result in results))
    hardware = ", ".join(dict.fromkeys(f"{result.world_size} × {result.device}" for result in results))
    count = "1 run" if len(results) == 1 else f"{len(results)} runs"
    return (
        f"{count} ({seeds(len({result.seed for result in results}))}) of {backbones} on {data}, measured on {hardware}"
    )


def figure_card(picture: Picture) -> str:
    """Return a picture with its title and caption as markup."""
    return (
        f"<figure><h3>{escape(picture.title)}</h3>\n{picture.svg}\n"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _reconstructions(groups: list[Group]) -> str:
    """Show for the first run of each group that has pictures the last one, or some through training."""
    shown = []
    for group in groups:
        run = next((run for run in group.runs if run.pictures or run.reconstruction is not None), None)
        if run is None:
            continue
        label, seed = escape(group.label), run.result.seed
        pictures = [(f"epoch {epoch}", path.read_bytes()) for epoch, path in _some(run.pictures)]
        if not pictures and run.reconstruction is not None:
            pictures = [("at the end", run.reconstruction)]
        strip = "\n".join(_embedded(content, when, label, seed) for when, content in pictures)
        shown.append(
            f"<figure{' class=wide' if len(pictures) > 1 else ''}><h3>{label}</h3>\n"
            f'<div class="strip">{strip}</div>\n'
            f"<figcaption>Seed {seed}. Top: original; middle: masked (MAE); bottom: rebuilt.</figcaption></figure>"
        )
    return _grid("Reconstructions", shown)


def _embedded(content: bytes, when: str, label: str, seed: int) -> str:
    return (
        f'<div><p class="soft">{when}</p><img src="data:image/png;base64,{b64encode(content).decode()}" '
        f'alt="Test images of {label}, seed {seed}, {when}, in rows: original, masked, rebuilt"></div>'
    )


def _some(pictures: Sequence[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """Return at most ``MOST_PICTURES`` of a run's pictures, the first and the last and evenly in between."""
    last = len(pictures) - 1
    count = min(len(pictures), MOST_PICTURES)
    return [pictures[round(number * last / max(count - 1, 1))] for number in range(count)]


def _grid(heading: str, cards: Iterable[str], size: str = "") -> str:
    """Return a section of cards; empty where there are none."""
    body = "\n".join(cards)
    return f'<h2>{heading}</h2>\n<div class="grid {size}">\n{body}\n</div>' if body else ""
