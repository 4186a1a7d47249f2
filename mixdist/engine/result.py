"""result.json: what a finished run came to, and on what."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mixdist.data.samples import Samples
from mixdist.engine.loop import Trainer
from mixdist.engine.window import peak_memory_mb

FORMAT = "mixdist-result"
VERSION = 1
METRICS_VERSION = 1  # of the lines of metrics.jsonl
PACKAGES = ("mixdist", "torch", "torchvision", "timm", "numpy", "pillow", "simplejpeg", "wandb")


def facts(trainer: Trainer, samples: Samples) -> dict[str, Any]:
    """Return what is known of a run before it trains and stands in no setting; part of result.json."""
    config = trainer.config
    return {
        "arm": config.method.arm,
        "seed": config.seed,
        "world_size": trainer.world.size,
        "device": _device_name(trainer.world.device),
        "precision": trainer.precision.name,
        "fraction": config.data.fraction,
        "labelled": len(samples.sl_ids),
        "unlabelled": samples.unlabelled,
        "backbone": config.model.backbone,
        "data": samples.sl.folder.name,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": _git_revision(),
    }


def make_result(trainer: Trainer, samples: Samples, setup_s: float, wall_s: float) -> dict[str, Any]:
    """Return the content of result.json; docs/run-folder.md describes each field."""
    progress, plan = trainer.progress, trainer.plan
    costs = {phase.name: (phase, progress.phases[phase.name]) for phase in plan.phases}
    return {
        "format": FORMAT,
        "version": VERSION,
        "metrics_version": METRICS_VERSION,
        **facts(trainer, samples),
        "accuracy": progress.accuracy,
        "top5": progress.top5,
        **({"tasks": _tasks(trainer, samples)} if samples.tasks else {}),
        "latency_s": progress.latency_s,
        "phases": {
            name: {
                "epochs": phase.epochs,
                "steps": cost.steps,
                "images": cost.images,
                "latency_s": cost.latency_s,
                "images_per_s": cost.images / cost.latency_s,
            }
            for name, (phase, cost) in costs.items()
        },
        "evaluation_s": progress.evaluation_s,
        "checkpoint_s": progress.checkpoint_s,
        "setup_s": setup_s,
        "wall_s": wall_s,
        "images_per_s": progress.samples / progress.latency_s,
        "samples": progress.samples,
        "skipped": progress.skipped,
        "bad_samples": len(trainer.feed.bad.found),
        "memory_mb": peak_memory_mb(trainer.world.device),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _tasks(trainer: Trainer, samples: Samples) -> dict[str, dict[str, Any]]:
    """Return what came out for each labelled set beside D_sl, by name; its rate as images of it an epoch."""
    return {
        task.name: {
            "accuracy": trainer.progress.tasks.get(task.name),
            "classes": len(task.packed.classes),
            "labelled": len(task.ids),
            "images_per_epoch": task.visits,
            "data": task.packed.folder.name,
        }
        for task in samples.tasks
    }


def confusion_json(classes: Sequence[str], counts: list[list[int]]) -> str:
    """Return the content of confusion.json: class names, and a line a class with what its samples were taken for."""
    rows = ",\n    ".join(json.dumps(row) for row in counts)
    return f'{{\n  "classes": {json.dumps(list(classes), ensure_ascii=False)},\n  "counts": [\n    {rows}\n  ]\n}}\n'


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the revision of mixdist's own code, with "-dirty" where it was changed; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
