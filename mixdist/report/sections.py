"""The parts of the page that are tables: results, settings, runs, versions, what was left out. All text is escaped."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from html import escape

from mixdist.report import paired, scaling
from mixdist.report.collect import LeftOut
from mixdist.report.paired import comparisons
from mixdist.report.run import Run
from mixdist.report.summarise import Group, differing, show
from mixdist.report.table import HEADINGS, PHASES, Row, rows, seconds

_RESULTS_NOTE = (
    "Accuracy: top-1 at the end of training, mean ± sample standard deviation over seeds. Latency: training time, "
    "without evaluation, checkpoints and set-up. Speed-up: latency of ssl+sl with the same settings and hardware, "
    "divided by this latency. Device h: training, evaluation and checkpoints, times ranks (GPU hours on GPUs). Paper: "
    "its accuracy and speed-up, where a row of its tables has these settings. Last column: share of the training time "
    "in each phase."
)


def results(groups: list[Group], colours: dict[str, str]) -> str:
    """Return the main table; ``colours`` gives each label the colour of its plots."""
    body = []
    for group, row in zip(groups, rows(groups), strict=True):
        swatch = f'<span class="swatch" style="background:{colours[group.label]}"></span>'
        body.append([f"{swatch}{_label(group)}", *map(escape, row.cells[1:-1]), _bar(row)])
    return html_table([*HEADINGS[:-1], "time in ssl / mix / sl"], body, _RESULTS_NOTE)


def pairs(groups: list[Group]) -> str:
    """Return the arms held against each other seed by seed; empty where no two share a seed."""
    found = comparisons(groups)
    if not found:
        return ""
    body = [[escape(cell) for cell in pair.cells] for pair in found]
    return "<h2>Arm against arm</h2>\n" + html_table(paired.HEADINGS, body, paired.CAVEAT)


def ranks(groups: list[Group]) -> str:
    """Return groups that differ in the number of ranks alone; empty where there are none."""
    body = [[escape(cell) for cell in one.cells] for one in scaling.scaling(groups)]
    return "<h2>Over ranks</h2>\n" + html_table(scaling.HEADINGS, body, scaling.CAVEAT) if body else ""


def configuration(groups: list[Group]) -> str:
    """Return the settings that differ between groups as a table, and those that all share as YAML-like lines."""
    settings = [group.settings for group in groups]
    keys = differing(settings)
    body = [[f"<code>{escape(key)}</code>", *(_setting(group, key) for group in groups)] for key in keys]
    shared = "\n".join(f"{key}: {show(value)}" for key, value in settings[0].items() if key not in keys)
    table = html_table(["setting", *map(_label, groups)], body, "Settings that differ between groups.", left=True)
    return f"{table if keys else ''}\n<details><summary>Shared settings</summary><pre>{escape(shared)}</pre></details>"


def runs(groups: list[Group]) -> str:
    """Return a line a run, with what its time went to."""
    headings = ["run", "seed", "accuracy %", "training s", "evaluation s", "checkpoints s", "set-up s", "wall s"]
    body = []
    for group in groups:
        for run in group.runs:
            one = run.result
            times = (one.latency_s, one.evaluation_s, one.checkpoint_s, one.setup_s, one.wall_s)
            tail = (f"{one.memory_mb:,.0f}", f"{one.parameters:,}", _commit(one.git))
            cells = (run.folder.as_posix(), str(one.seed), f"{one.accuracy:.2f}", *map(seconds, times), *tail)
            body.append([escape(cell) for cell in cells])
    note = "Memory: peak, of the device on a GPU, of the process elsewhere."
    return html_table([*headings, "memory MiB", "parameters", "commit"], body, note)


def commands(groups: list[Group]) -> str:
    """Return a command line for each run that trains it again; not escaped."""
    return "\n".join(
        f"torchrun --nproc_per_node={run.result.world_size} -m mixdist.train "
        f"--config {shlex.quote((run.folder / 'config.yaml').as_posix())}"
        for group in groups
        for run in group.runs
    )


def versions(all_runs: Iterable[Run]) -> str:
    """Return the versions that occur, by package."""
    seen: dict[str, dict[str, None]] = {}
    for run in all_runs:
        for name, version in run.result.versions.items():
            seen.setdefault(name, {})[version or "not installed"] = None
    return html_table(
        ["package", "version"], [[escape(name), escape(", ".join(seen[name]))] for name in seen], left=True
    )


def left_out(entries: Sequence[LeftOut]) -> str:
    """Return the folders that are not in the tables, with the reason; empty where there are none."""
    if not entries:
        return ""
    body = [[escape(entry.folder.as_posix()), escape(entry.reason)] for entry in entries]
    return "<h2>Left out</h2>\n" + html_table(["run folder", "reason"], body, left=True)


def html_table(headings: Sequence[str], body: Sequence[Sequence[str]], note: str = "", left: bool = False) -> str:
    """Return a table in a box that scrolls, with a note below it. Headings and cells are markup already."""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    lines = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in body
    )
    kind = ' class="left"' if left else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>"
        + (f'\n<p class="soft">{escape(note)}</p>' if note else "")
    )


def _setting(group: Group, key: str) -> str:
    return escape(show(group.settings[key])) if key in group.settings else '<span class="soft">not used</span>'


def _label(group: Group) -> str:
    arm, *keys = map(escape, group.lines)
    return "".join([arm, *(f'<br><span class="key">{key}</span>' for key in keys)])


def _commit(revision: str | None) -> str:
    """Return the first digits of a revision, and whether the code was changed since."""
    if revision is None:
        return "unknown"
    return revision[:8] + ("-dirty" if revision.endswith("-dirty") else "")


def _bar(row: Row) -> str:
    parts = []
    for phase in PHASES:
        percent = 100 * row.shares.get(phase, 0.0)
        text = f"{phase} {percent:.0f}%"
        inside = text if percent >= 25 else f"{percent:.0f}%" if percent >= 12 else ""  # what the part has room for
        parts.append(f'<span class="{phase}" style="width:{percent:.1f}%" title="{text}">{inside}</span>')
    return f'<div class="bar">{"".join(parts)}</div>'
