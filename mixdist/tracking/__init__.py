"""Where records go: console, metrics.jsonl and Weights & Biases."""

from __future__ import annotations

import os
from typing import Literal

from mixdist.config.run_section import TrackingConfig
from mixdist.tracking.console import open_console
from mixdist.tracking.jsonl import JsonLines
from mixdist.tracking.tensorboard import TensorBoard
from mixdist.tracking.tracker import PhaseInfo, RunInfo, Tracker, Trackers
from mixdist.tracking.trackio_sink import Trackio
from mixdist.tracking.wandb_sink import WandbSink

__all__ = ["PhaseInfo", "RunInfo", "Tracker", "Trackers", "main_trackers"]


Mode = Literal["auto", "online", "offline", "disabled"]

START_OVER_S = 10.0  # for a run that ends while the server is still waited for, to start over offline
_FROM_ENVIRONMENT: dict[str, Mode] = {"offline": "offline", "disabled": "disabled"}


def main_trackers(tracking: TrackingConfig) -> Trackers:
    """Return the trackers of rank 0; the other ranks use ``Trackers()``.

    W&B's mode "auto" is what WANDB_MODE says, else online: the sink goes offline by itself.
    """
    wandb: Mode = tracking.wandb
    console = open_console()
    trackers: list[Tracker] = [JsonLines(), console]
    if tracking.tensorboard:
        trackers.append(TensorBoard(console.message))
    if tracking.trackio:
        trackers.append(Trackio(tracking.project, console.message, tracking.timeout_s + START_OVER_S))
    if wandb == "auto":
        wandb = _FROM_ENVIRONMENT.get(os.environ.get("WANDB_MODE", ""), "online")
    if wandb == "online" or wandb == "offline":
        # Last, so that the result is on the screen before an upload is waited for.
        patience = (tracking.timeout_s, tracking.timeout_s + START_OVER_S)
        trackers.append(
            WandbSink(wandb, tracking.project, tracking.entity, console.message, *patience, images=tracking.images)
        )
    return Trackers(*trackers)
