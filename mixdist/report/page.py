"""The comparison as one self-contained HTML page: no script, no outside resource, all text from runs escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template

from mixdist.report import sections
from mixdist.report.collect import Found
from mixdist.report.figures import figures
from mixdist.report.losses import losses
from mixdist.report.marks import marks
from mixdist.report.picture import Picture
from mixdist.report.summarise import Group
from mixdist.report.words import headline, notes, seeds


def page(groups: list[Group], found: Found) -> str:
    """Return the page. It holds no date and no random id: the same runs give the same bytes."""
    template = files("mixdist.report").joinpath("page.html").read_text(encoding="utf-8")
    remarks = "".join(f"<li>{escape(note)}</li>" for note in notes(groups))
    return Template(template).substitute(
        style=style_sheet(),
        scope=escape(_scope(groups)),
        headline=escape(headline(groups)),
        notes=f'<ul class="notes">{remarks}</ul>' if remarks else "",
        results=sections.results(groups, {label: look.colour for label, look in marks(groups).items()}),
        figures=_grid("Figures", map(figure_card, figures(groups))),
        losses=_grid("Loss terms", map(figure_card, losses(groups)), "small"),
        reconstructions=_reconstructions(groups),
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
    """Show the first picture of each group that has one."""
    shown = []
    for group in groups:
        run = next((run for run in group.runs if run.reconstruction is not None), None)
        if run is None or run.reconstruction is None:
            continue
        label, seed = escape(group.label), run.result.seed
        source = b64encode(run.reconstruction).decode()
        shown.append(
            f"<figure><h3>{label}</h3>\n"
            f'<img src="data:image/png;base64,{source}" alt="Test images of {label}, seed {seed}, in three rows: '
            f'original, masked, rebuilt">\n'
            f"<figcaption>Seed {seed}. Top: original; middle: masked; bottom: rebuilt.</figcaption></figure>"
        )
    return _grid("Reconstructions", shown)


def _grid(heading: str, cards: Iterable[str], size: str = "") -> str:
    """Return a section of cards; empty where there are none."""
    body = "\n".join(cards)
    return f'<h2>{heading}</h2>\n<div class="grid {size}">\n{body}\n</div>' if body else ""
