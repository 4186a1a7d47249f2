"""A finished run as its folder holds it: what was asked, what it is for, what came out, and the weights."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file

from mixdist.config.read import read_config
from mixdist.config.schema import Config
from mixdist.data.samples import find_samples
from mixdist.data.task import Task
from mixdist.engine.checkpoint.manifest import Torn
from mixdist.engine.checkpoint.parts import WEIGHTS
from mixdist.engine.checkpoint.read import verify
from mixdist.errors import DataError, UserError
from mixdist.report.run import check_format
from mixdist.runfolder import RunFolder
from mixdist.serving.classifier import Classifier, Weights, build_classifier


class ResultFile(BaseModel):
    """What is read of result.json."""

    accuracy: float | None
    top5: float | None
    arm: str
    seed: int
    labelled: int
    unlabelled: int
    versions: dict[str, str | None]


class PlanFile(BaseModel):
    """What is read of plan.json."""

    steps: int
    hash: str


Content = TypeVar("Content", bound=BaseModel)


@dataclass(frozen=True)
class FinishedRun:
    """A run whose training is over."""

    folder: Path
    config: Config
    task: Task
    result: ResultFile
    plan_hash: str
    identity: dict[str, str]  #: the settings that say what is trained, by dotted key, and the fingerprints of the sets
    averaged: bool  #: the weights are the moving average, which is what was evaluated
    weights: Weights

    @property
    def classifies(self) -> bool:
        """Whether a supervised phase trained the classification head."""
        return self.result.accuracy is not None

    def classifier(self) -> Classifier:
        """Build the network with its weights. Raises as `build_classifier`."""
        timm = str(self.result.versions.get("timm"))
        return build_classifier(
            self.config.model, self.task.image_size, self.weights, timm, f"the model of {self.folder}"
        )


def read_run(path: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        UserError: it is none, or the run is not finished, or a file of it is damaged; or it is of a mixdist that wrote
            no task.json, and its packed set is gone or has changed.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise UserError(f"{path} is not a run folder: it holds no config.yaml")
    config = read_config(["--config", str(folder.config)])
    if not folder.result.is_file():
        raise UserError(
            f"{path} is not finished (no result.json); train it to its end first: mixdist train --config "
            f"{folder.config}"
        )
    result, plan = _result(folder), _read(folder.plan, PlanFile)
    checkpoint = _newest(folder)
    try:
        manifest = verify(checkpoint)
    except Torn as error:
        raise UserError(f"{checkpoint} is damaged: {error}; put a copy of it in its place, or train again") from error
    if manifest.step != plan.steps:
        raise UserError(
            f"{path} is not finished: its newest checkpoint is of step {manifest.step} of {plan.steps}; train it to "
            f"its end first: mixdist train --config {folder.config}"
        )
    averaged = "ema" in manifest.parts
    weights = load_file(checkpoint / WEIGHTS["ema" if averaged else "model"])
    task = _task(folder, config, manifest.identity["data.sl"])
    if config.data.tasks:  # it serves data.sl, whose classes are the first of all heads
        weights |= {
            name: weights[name][: len(task.classes)].clone() for name in ("classifier.weight", "classifier.bias")
        }
    if task.classes and len(task.classes) != len(weights["classifier.weight"]):
        raise UserError(
            f"{folder.task} names {len(task.classes)} classes, the model tells {len(weights['classifier.weight'])} "
            f"apart; put the run's own task.json in its place"
        )
    return FinishedRun(path, config, task, result, plan.hash, manifest.identity, averaged, weights)


def _result(folder: RunFolder) -> ResultFile:
    """Read result.json of a format version that is known; what is no JSON object is refused by name."""
    with suppress(OSError, ValueError):
        content = json.loads(folder.result.read_bytes())
        try:
            check_format(content)
        except UserError as error:
            raise UserError(f"{folder.path}: {error}") from None
    return _read(folder.result, ResultFile)


def _newest(folder: RunFolder) -> Path:
    pointer = folder.checkpoints / "latest"
    try:
        return folder.checkpoints / pointer.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{pointer} cannot be read; the weights of a run are in its checkpoints: {error}") from error


def _task(folder: RunFolder, config: Config, fingerprint: str) -> Task:
    """Read task.json, or for a run that has none make it of the packed set, if that is still the one trained on."""
    if folder.task.is_file():
        return _read(folder.task, Task)
    try:
        samples = find_samples(config)
    except DataError as error:
        raise UserError(f"{folder.path} has no task.json, and its set cannot be asked instead: {error}") from error
    if samples.sl.fingerprint != fingerprint:
        raise UserError(
            f"{folder.path} has no task.json, and {samples.sl.location} is another set than it was trained on; "
            f"put that one in its place"
        )
    return Task.of(samples.sl, samples.image_size)


def _read(path: Path, kind: type[Content]) -> Content:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged: {f'{field}: ' if field else ''}{first['msg']}") from error
