"""One finished run as its folder holds it: result.json, metrics.jsonl, config.yaml and the reconstructions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, TypeAdapter, ValidationError, model_validator

from mixdist.config.dotted import dotted
from mixdist.engine.record import StepRecord
from mixdist.errors import UserError
from mixdist.runfolder import RunFolder

FORMAT = "mixdist-result"
VERSION = 1
METRICS_VERSION = 1  #: of the lines of metrics.jsonl; result.json names it
_RECORD = TypeAdapter(StepRecord)


class PhaseResult(BaseModel):
    """What one phase took."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    epochs: int
    steps: int
    latency_s: float  #: training seconds


class TaskResult(BaseModel):
    """What came out for one labelled set beside D_sl."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    accuracy: float  #: top-1 in percent on its own test split


class Result(BaseModel):
    """The fields of result.json that a comparison reads; further fields are let pass."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    arm: Literal["sl", "ssl+sl", "mixtraining"]
    accuracy: float  #: top-1 in percent at the end of training
    latency_s: PositiveFloat  #: training seconds; evaluation, checkpoints and set-up not counted
    phases: dict[Literal["ssl", "mix", "sl"], PhaseResult]  #: those that ran, in order
    evaluation_s: float
    checkpoint_s: float
    setup_s: float
    wall_s: float
    images_per_s: float
    seed: int
    world_size: int
    device: str
    fraction: float
    tasks: dict[str, TaskResult] = {}  #: of the labelled sets beside D_sl, by name
    labelled: int
    unlabelled: int
    backbone: str
    data: str
    parameters: int
    memory_mb: float
    versions: dict[str, str | None]
    git: str | None
    metrics_version: int = METRICS_VERSION  #: the first results named none


class Confusion(BaseModel):
    """confusion.json: what the test samples of each class were taken for."""

    model_config = ConfigDict(frozen=True)

    classes: list[str]
    counts: list[list[NonNegativeInt]]  #: [label][class it was taken for]

    @model_validator(mode="after")
    def _square(self) -> Confusion:
        if {len(self.classes)} != {len(self.counts), *map(len, self.counts)}:
            raise ValueError("counts should have a row and a column for each class")
        return self


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    result: Result
    settings: dict[str, Any]  #: the config, flat: dotted key -> value
    records: tuple[StepRecord, ...]  #: in the order of their steps; empty where metrics.jsonl is missing
    reconstruction: bytes | None  #: PNG
    pictures: tuple[tuple[int, Path], ...] = ()  #: (epoch, PNG) through training, in order
    confusion: Confusion | None = None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: unfinished, of another format version, or damaged; the message is the reason, without the folder.
    """
    files = RunFolder(folder)
    if not files.result.is_file():
        raise UserError("unfinished: no result.json; the same mixdist train goes on with it")
    picture = files.reconstruction
    return Run(
        folder=folder,
        result=_read_result(files.result),
        settings=_read_settings(files.config),
        records=_read_records(files.metrics),
        reconstruction=picture.read_bytes() if picture.is_file() else None,
        pictures=tuple(_pictures(files.reconstructions)),
        confusion=_read_confusion(files.confusion),
    )


def check_format(result: Any) -> None:
    """Refuse what result.json holds, where it is no result of a run or one of another format version.

    Raises:
        UserError: saying which.
    """
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise UserError(f'result.json is not that of a mixdist run ("format" should be "{FORMAT}")')
    if result.get("version") != VERSION:
        raise UserError(f"result.json has format version {result.get('version')}, this mixdist reads {VERSION}")


def _read_result(path: Path) -> Result:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"result.json is not JSON ({error})") from None
    check_format(tree)
    if tree.get("metrics_version", 1) != METRICS_VERSION:
        raise UserError(
            f"metrics.jsonl has format version {tree['metrics_version']}, this mixdist reads {METRICS_VERSION}"
        )
    if tree.get("accuracy") is None:
        raise UserError("result.json has no accuracy: the run had no supervised epoch")
    try:
        return Result.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"result.json: {_first(error)}") from None


def _read_confusion(path: Path) -> Confusion | None:
    if not path.is_file():
        return None
    try:
        return Confusion.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"confusion.json: {_first(error)}") from None


def _pictures(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted(folder.glob("epoch-*.png")):
        if (number := path.stem.removeprefix("epoch-")).isdecimal():
            yield int(number), path


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no config.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config.yaml is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UserError(f"config.yaml should hold sections such as 'data:', it holds a {type(tree).__name__}")
    return {key: value for key, value in dotted(tree) if value != {}}


def _read_records(path: Path) -> tuple[StepRecord, ...]:
    """Read metrics.jsonl. The last line may be cut short; steps that a resumed run did again count once."""
    if not path.is_file():
        return ()
    records: list[StepRecord] = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = _RECORD.validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                break  # a killed run leaves its last line half written
            raise UserError(f"metrics.jsonl, line {number}: {_first(error)}") from None
        while records and records[-1].step >= record.step:
            records.pop()
        records.append(record)
    return tuple(records)


def _first(error: ValidationError) -> str:
    """Return the first fault of a pydantic error as "FIELD: what is wrong"."""
    detail = error.errors()[0]
    field = ".".join(str(part) for part in detail["loc"])
    message = f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
    return f"{field}: {message}" if field else message
