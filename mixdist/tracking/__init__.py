"""Where records go: console, metrics.jsonl and Weights & Biases."""

from __future__ import annotations

import os
from typing import Literal

from mixdist.tracking.console import open_console
from mixdist.tracking.jsonl import JsonLines
from mixdist.tracking.tracker import PhaseInfo, RunInfo, Tracker, Trackers
from mixdist.tracking.wandb_sink import WandbSink

__all__ = ["PhaseInfo", "RunInfo", "Tracker", "Trackers", "main_trackers"]


Mode = Literal["auto", "online", "offline", "disabled"]

_FROM_ENVIRONMENT: dict[str, Mode] = {"offline": "offline", "disabled": "disabled"}


def main_trackers(wandb: Mode, project: str, entity: str | None) -> Trackers:
    """Return the trackers of rank 0; the other ranks use ``Trackers()``.

    Args:
        wandb: ``tracking.wandb``. "auto" is what WANDB_MODE says, else online: the sink goes offline by itself.
        project: W&B project.
        entity: W&B entity; None is the user's own.
    """
    console = open_console()
    trackers: list[Tracker] = [JsonLines(), console]
    if wandb == "auto":
        wandb = _FROM_ENVIRONMENT.get(os.environ.get("WANDB_MODE", ""), "online")
    if wandb == "online" or wandb == "offline":
        # Last, so that the result is on the screen before an upload is waited for.
        trackers.append(WandbSink(wandb, project, entity, console.message))
    return Trackers(*trackers)
