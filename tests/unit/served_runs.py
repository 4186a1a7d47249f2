"""Finished runs without training, for tests of what comes after: tiny models with random weights, all else real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from tiny_run import FAMILIES, family_config

from mixdist.config.schema import Config
from mixdist.data.task import Task
from mixdist.model.mixmodel import MixModel, build_model
from mixdist.serving.finished_run import FinishedRun, ResultFile

SIZE = 32
CLASSES = ("ash", "birch", "cedar")
TASK = Task(
    classes=CLASSES, image_size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 1.0), data="trees", fingerprint="f00"
)


def finished(family: str, **options: Any) -> tuple[FinishedRun, MixModel]:
    """Return a run of a family's tiny model, and the model that it ended with."""
    return finished_of(family_config(family, **options))


def finished_of(config: Config, accuracy: float | None = 50.0) -> tuple[FinishedRun, MixModel]:
    """Return a run of a config, and the model that it ended with, whose statistics are no longer those of the start."""
    model = build_model(config, SIZE, len(CLASSES))
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    result = {"accuracy": accuracy, "top5": None, "arm": "sl", "seed": 0, "labelled": 9, "unlabelled": 0}
    versions = {"timm": timm.__version__, "torch": torch.__version__}
    run = FinishedRun(
        folder=Path("run"),
        config=config,
        task=TASK,
        result=ResultFile(**result, versions=versions),
        plan_hash="abc",
        identity={"method.arm": "sl"},
        averaged=False,
        weights=model.state_dict(),
    )
    return run, model.eval()


def pixels(count: int = 4, size: int = SIZE) -> torch.Tensor:
    """Return noise, uint8 [count, size, size, 3]."""
    return torch.randint(0, 256, (count, size, size, 3), generator=torch.Generator().manual_seed(2)).byte()


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Normalise pixels by the task's numbers, without mixdist's own code for it."""
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (TASK.mean, TASK.std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def other_model(family: str, name: str) -> Config:
    """Return a family's config with another timm model."""
    config = family_config(family)
    options = {} if name not in FAMILIES else FAMILIES[name].get("options", {})
    return config.model_copy(update={"model": config.model.model_copy(update={"backbone": name, "options": options})})
