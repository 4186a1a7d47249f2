"""The comparison as a W&B report: the same groups as run sets, and panels over what runs send (docs/tracking.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixdist.errors import UserError
from mixdist.report.summarise import ARMS, Group

RUN_ID = "wandb-id.txt"
WORLD_SIZE = "world_size"  #: the one preset of --by
_WIDTH, _HEIGHT = 12, 8  # of a panel, in 24 columns
_LONGEST_TITLE = 128  # W&B's own limit


@dataclass(frozen=True)
class RunSet:
    """Runs that stand under one name."""

    name: str
    filters: str  #: in wandb-workspaces' language


def by_groups(groups: list[Group]) -> tuple[list[RunSet], list[Path]]:
    """Return a run set a group, of the runs that W&B knows, and the folders of those that it does not."""
    sets, unknown = [], []
    for group in groups:
        ids = []
        for run in group.runs:
            path = run.folder / RUN_ID
            if path.is_file():
                ids.append(path.read_text(encoding="utf-8").strip())
            else:
                unknown.append(run.folder)
        if ids:
            sets.append(RunSet(group.label, f"Metric('ID') in {ids!r}"))
    return sets, unknown


def by_arms() -> list[RunSet]:
    """Return a run set an arm, of whatever runs the project has or will have."""
    return [RunSet(arm, f"Metric('JobType') == '{arm}'") for arm in ARMS]


def publish(place: str, title: str, text: str, sets: list[RunSet], by: str | None) -> str:
    """Write the report, over the one of this title that the project has; return its URL.

    Args:
        place: ENTITY/PROJECT.
        title: of the report, by which a second call finds it.
        text: Markdown for its top.
        sets: what is compared.
        by: a fact of the run by which each run set is split; None for not at all.

    Raises:
        UserError: ``place`` is none, wandb-workspaces is not installed, or W&B refuses; what it said is in the message.
    """
    entity, project = _split(place)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        raise UserError("--wandb needs wandb-workspaces; install it with: pip install 'mixdist[reports]'") from None
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        found = [one.id for one in wandb.Api().reports(place) if one.display_name == title[:_LONGEST_TITLE]]
        report = reports.Report(entity=entity, project=project, title=title[:_LONGEST_TITLE], width="fluid")
        report.blocks = [
            reports.MarkdownBlock(text),
            reports.PanelGrid(
                runsets=[_run_set(reports, entity, project, one, by) for one in sets], panels=_panels(reports)
            ),
        ]
        report.id = found[0] if found else ""
        report.save()
    except Exception as error:  # whatever the server or its client makes of a wrong key, place or answer
        raise UserError(f"--wandb {place}: {' '.join(str(error).split()) or type(error).__name__}") from None
    return str(report.url)


def _split(place: str) -> tuple[str, str]:
    parts = place.split("/")
    if len(parts) != 2 or not all(parts):
        raise UserError(f"--wandb {place} should be ENTITY/PROJECT")
    return parts[0], parts[1]


def _run_set(reports: Any, entity: str, project: str, one: RunSet, by: str | None) -> Any:
    split = [] if by is None else [f"config.run_facts.{by}"]
    return reports.Runset(entity=entity, project=project, name=one.name, filters=one.filters, groupby=split)


def _panels(reports: Any) -> list[Any]:
    """Return the panels in their order, two in a row."""
    line, bar = reports.LinePlot, reports.BarPlot
    seconds = "train/latency_s"
    columns = [
        *(reports.Config("method.loss_ratio"), reports.Config("method.mix_ratio")),
        *(reports.SummaryMetric("latency_s"), reports.SummaryMetric("accuracy")),
    ]
    panels = [
        line(title="Accuracy against training wall-clock, s", x=seconds, y=["eval/accuracy"]),
        reports.ScatterPlot(
            title="Accuracy against training time at the end",
            x=reports.SummaryMetric("latency_s"),
            y=reports.SummaryMetric("accuracy"),
        ),
        line(title="Accuracy by epoch", x="epoch", y=["eval/accuracy"]),
        line(title="Loss terms over images", x="samples", y=["train/loss_ssl", "train/loss_sl"]),
        line(title="Throughput, images/s", x=seconds, y=["train/images_per_s"]),
        line(
            title="Shares of time: waiting for data, workers decoding, copies to the device",
            x=seconds,
            y=["train/data_wait", "train/decode", "train/host_to_device"],
        ),
        bar(title="Throughput of the whole run, images/s", metrics=["images_per_s"]),
        bar(title="Device hours", metrics=["device_hours"]),
        reports.ParallelCoordinatesPlot(
            title="α, ρ, time and accuracy",
            columns=[reports.ParallelCoordinatesPlotColumn(metric=one) for one in columns],
        ),
        reports.MediaBrowser(title="Reconstructions", media_keys=["reconstructions"]),
        reports.RunComparer(diff_only=True),
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, 2)
        panel.layout = reports.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
    return panels
