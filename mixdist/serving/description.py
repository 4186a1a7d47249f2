"""model.json: what an exported model is, and how its files have to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import timm
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

import mixdist
from mixdist.data.task import Task
from mixdist.engine.checkpoint.manifest import FileDigest
from mixdist.errors import UserError
from mixdist.files import write_json
from mixdist.model.backbone import timm_options
from mixdist.serving.finished_run import FinishedRun
from mixdist.serving.layouts import Head, Layout

NAME = "model.json"


class Description(BaseModel):
    """What an exported model says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["mixdist-model"] = "mixdist-model"
    version: Literal[1] = 1
    layout: Layout  #: what the weights lie in
    head: Head  #: inside the model; separate: in head.safetensors beside it; none: there is only a backbone
    backbone: str  #: timm's name
    options: dict[str, Any]  #: arguments of timm.create_model, besides num_classes
    task: Task
    clip_frames: int  #: frames of a clip whose logits are averaged
    batch: int  #: images of one forward when the run was evaluated
    accuracy: float | None  #: top-1 in percent on the run's test split
    top5: float | None
    arm: str
    seed: int
    labelled: int  #: training images with a label
    unlabelled: int  #: training images that only SSL saw
    averaged: bool  #: the weights are the moving average over the updates (train.ema_decay)
    config: dict[
        str, str
    ]  #: the settings that say what was trained, by dotted key; for data.sl and data.ssl their fingerprints
    plan: str  #: hash of the run's plan
    license: str
    trained_with: dict[str, str | None]  #: versions
    exported_with: dict[str, str]
    files: dict[str, FileDigest]  #: all others that the model needs

    def write(self, folder: Path) -> None:
        """Write model.json."""
        write_json(folder / NAME, self.model_dump(mode="json"))


def describe(run: FinishedRun, layout: Layout, head: Head, license: str, folder: Path) -> Description:
    """Describe the model of a run whose files lie in ``folder``."""
    result = run.result
    return Description(
        layout=layout,
        head=head,
        backbone=run.config.model.backbone,
        options=timm_options(run.config.model, run.task.image_size),
        task=run.task,
        clip_frames=run.config.data.clip_frames,
        batch=run.config.train.eval_batch,
        accuracy=result.accuracy,
        top5=result.top5,
        arm=result.arm,
        seed=result.seed,
        labelled=result.labelled,
        unlabelled=result.unlabelled,
        averaged=run.averaged,
        config=run.identity,
        plan=run.plan_hash,
        license=license,
        trained_with=result.versions,
        exported_with={"mixdist": mixdist.__version__, "torch": torch.__version__, "timm": timm.__version__},
        files={path.name: FileDigest.of(path) for path in sorted(folder.iterdir())},
    )


def read_description(folder: Path) -> Description:
    """Read model.json and hold the files beside it against it.

    Raises:
        UserError: it is not there, or of another format, or a file is missing or not the one that was exported.
    """
    path = folder / NAME
    try:
        description = Description.model_validate_json(path.read_bytes())
        for name, written in description.files.items():
            if FileDigest.of(folder / name) != written:
                raise UserError(f"{folder / name} is not the file that was exported (SHA-256); export the model again")
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror}; export the model again") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} is not the description of a model that this mixdist reads: {field}: {first['msg']}"
        ) from error
    return description
