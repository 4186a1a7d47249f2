"""The paper's own figure for a group of runs, where its settings are those of a row of the paper's tables."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath

from mixdist.report.summarise import Group

_BACKBONES = {"vit_tiny_patch16_224": "vit_tiny", "resnet18": "resnet18"}
_PLAIN = {  # settings under which a run is none of the paper's plain rows, unless they have this value
    "method.loss_ratio_schedule": "constant",
    "method.ssl_masking": "feature",
    "method.mix_samples": "labelled",
    "data.labelled_fraction": 1.0,
    "data.label_noise": 0.0,
    "data.ssl_samples": None,
    "train.mixup": 0.0,
    "train.ema_decay": None,
}
_SAME = ("backbone", "ssl_dataset", "sl_dataset", "variant", "fraction", "epochs", "loss_ratio", "mix_ratio")


@dataclass(frozen=True)
class Published:
    """What the paper says."""

    table: str
    accuracy: float  #: percent
    speed_up: float | None  #: its latency of ssl+sl over this one

    def __str__(self) -> str:
        """Return accuracy, and speed-up where the paper's latencies give one."""
        return f"{self.accuracy:.1f}" + ("" if self.speed_up is None else f" / {self.speed_up:.2f}×")


def published(group: Group) -> Published | None:
    """Return the paper's figure for the settings of a group; None where no row of its plain tables has them."""
    settings, result = group.settings, group.runs[0].result
    if result.tasks or any(settings.get(key, plain) != plain for key, plain in _PLAIN.items()):
        return None
    ssl = settings.get("data.ssl") or result.data
    wanted = {
        "backbone": _BACKBONES.get(result.backbone, ""),
        "ssl_dataset": _name(str(ssl)),
        "sl_dataset": _name(result.data),
        "method": group.arm,
        "variant": "",
    }
    epochs = {settings.get("method.sl_epochs")} | ({settings.get("method.ssl_epochs")} if group.arm != "sl" else set())
    numbers = {"fraction": {result.fraction}, "epochs": epochs}
    if group.arm == "mixtraining":
        numbers |= {f"{name}_ratio": {settings.get(f"method.{name}_ratio")} for name in ("loss", "mix")}
    for row in _rows():
        named = all(_name(row[name]) == _name(value) for name, value in wanted.items())
        if named and row["accuracy"] and all({float(row[name])} == values for name, values in numbers.items()):
            return Published(f"Table {row['table']}", float(row["accuracy"]), _speed_up(row))
    return None


def _speed_up(row: dict[str, str]) -> float | None:
    for base in _rows():
        same = all(base[name] == row[name] for name in _SAME)
        if base["method"] == "ssl+sl" and same and base["latency_s"] and row["latency_s"]:
            return float(base["latency_s"]) / float(row["latency_s"])
    return None


@cache
def _rows() -> tuple[dict[str, str], ...]:
    # Read as a file: the paper's room stands left of this one and uses it.
    text = files("mixdist").joinpath("paper/results.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def _name(text: str) -> str:
    """Return a name that folders and the paper spell in one way: "Tiny-ImageNet/" is tinyimagenet."""
    return re.sub(r"[^a-z0-9+]", "", PurePath(text).name.lower())
