"""Settings of the run folder and of where records go."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mixdist.config.section import Section


class RunConfig(Section):
    """Where the run lives."""

    dir: Path = Field(Path("runs/run"), description="run folder: config, plan, metrics, result and checkpoints")
    resume: Literal["auto", "require", "fresh"] = Field(
        "auto",
        description="auto: go on where the folder's checkpoint ends, else start; require (or --resume): an error where "
        "there is none; fresh: remove an earlier run of this folder first (auto where torchrun or Slurm restarts it)",
    )
    hang_timeout_s: float = Field(
        300,
        ge=0,
        le=3000,
        description="seconds in which a rank may get no further before the run ends with a report of who waits for "
        "whom; four times that in its set-up, the first step of a phase, evaluations and checkpoints; 0: never",
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that stay")
    keep_best: bool = Field(False, description="the checkpoint with the best top-1 stays too")
    save_every_epochs: int = Field(1, ge=1, description="epochs between two checkpoints; a phase's end is always one")
    save_every_steps: int | None = Field(
        None, ge=1, description="steps between two checkpoints, beside those of epochs"
    )
    save_every_minutes: float | None = Field(
        None, gt=0, description="minutes after the newest checkpoint, of whatever reason, that the next is due"
    )


class TrackingConfig(Section):
    """Where records go besides the run folder."""

    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="Weights & Biases; auto: online where the user is logged in, else offline"
    )
    project: str = Field("mixdist", description="project of W&B and trackio")
    entity: str | None = Field(None, description="W&B entity; default: the user's own")
    group: str | None = Field(None, description="W&B group; default: the name of the run folder's parent")
    tags: list[str] = Field([], description="W&B tags, beside arm, backbone and data set")
    tensorboard: bool = Field(False, description="records and pictures for TensorBoard too, in run.dir/tensorboard")
    trackio: bool = Field(False, description="numbers for trackio too, on this machine only")
    images: bool = Field(False, description="pictures of reconstructions go to W&B too, and so leave this machine")
    reconstruct_every: int | None = Field(
        None,
        ge=1,
        description="epochs between two pictures of what the reconstruction head makes of fixed images, kept in "
        "run.dir/reconstructions; default: one at the end",
    )
    timeout_s: float = Field(
        20,
        gt=0,
        le=600,
        description="seconds that W&B has to answer when the run starts, else it goes on offline; 10 more at its end",
    )
