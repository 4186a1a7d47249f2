"""What W&B is told of a run: how it is described, a record's values, and the summary at the end."""

from __future__ import annotations

from typing import Any

from mixdist.engine.record import StepRecord
from mixdist.tracking.privacy import shareable
from mixdist.tracking.tracker import RunInfo

AXES = {"train/*": "samples", "eval/*": "epoch"}  #: metrics -> what they are drawn over
_OWN_ROOM = ("step", "epoch", "phase_epoch", "phase", "samples")
_EVALUATIONS = ("accuracy", "top5", "knn", "linear_probe", "feature_spread", "feature_rank", "collapsed")
_SUMMARY = (
    *("accuracy", "top5", "latency_s", "evaluation_s", "checkpoint_s", "setup_s", "wall_s", "samples", "images_per_s"),
    *("memory_mb", "skipped", "bad_samples", "parameters", "git"),
)
_LONGEST_TAG = 64  # W&B's own limit


def described(info: RunInfo) -> dict[str, Any]:
    """Return the arguments of wandb.init that say what run this is."""
    return {
        "name": info.run_name,
        "group": info.group,
        "job_type": info.arm,
        "tags": list(dict.fromkeys(tag[:_LONGEST_TAG] for tag in info.tags if tag)),
        "config": {**shareable(info.config), "run_facts": shareable(info.facts)},
    }


def values(record: StepRecord, world_size: int) -> dict[str, Any]:
    """Return what W&B gets of a record: axes by their name, the rest as train/NAME and eval/NAME, without Nones."""
    told: dict[str, Any] = {}
    for name, value in record.as_dict().items():
        if name == "tasks":
            told |= {f"eval/accuracy/{task}": percent for task, percent in (value or {}).items()}
            continue
        room = "" if name in _OWN_ROOM else "eval/" if name in _EVALUATIONS else "train/"
        if value is not None and name != "reconstruction":  # a file's name; whether the file itself goes, the sink says
            told[room + name] = value
    return {**told, "train/images_per_s_per_device": record.images_per_s / world_size}


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return the run's summary from its result.json: accuracy, and what a speed-up is computed from."""
    phases = {
        f"{name}/{phase}": cost[name]
        for phase, cost in result["phases"].items()
        for name in ("latency_s", "images_per_s")
    }
    own = {name: result[name] for name in _SUMMARY if result[name] is not None}
    per_device = {"images_per_s_per_device": result["images_per_s"] / result["world_size"]}
    return own | phases | per_device | {"device_hours": device_hours(result)}


def device_hours(result: dict[str, Any]) -> float:
    """Return the hours that all devices together worked: training, evaluation and checkpoints, on every rank."""
    busy_s = result["latency_s"] + result["evaluation_s"] + result["checkpoint_s"]
    return float(busy_s * result["world_size"] / 3600)
