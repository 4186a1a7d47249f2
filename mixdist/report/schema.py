"""JSON Schemas of what a run leaves, shipped in schemas/: `python -m mixdist.report.schema` writes them anew.

A new field that may be absent or null keeps a schema's version; anything else raises it, and files of another version
are left out of comparisons.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, NonNegativeInt, TypeAdapter

from mixdist import files
from mixdist.engine.record import StepRecord
from mixdist.report.run import METRICS_VERSION, VERSION, Confusion, PhaseResult, Result

FOLDER = Path(__file__).with_name("schemas")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOT_FINITE = {"enum": ["NaN", "Infinity", "-Infinity"]}  # JSON has no such numbers


class WholePhase(PhaseResult):
    """All fields of one phase."""

    images: NonNegativeInt
    images_per_s: float


class WholeResult(Result):
    """All fields of result.json; docs/run-folder.md says what each is."""

    format: Literal["mixdist-result"]
    version: Literal[1]
    accuracy: float | None  # type: ignore[assignment]  # a run without a supervised epoch has none
    top5: float | None
    phases: dict[Literal["ssl", "mix", "sl"], WholePhase]  # type: ignore[assignment]
    samples: NonNegativeInt
    precision: str
    skipped: NonNegativeInt
    bad_samples: NonNegativeInt
    finished: str = Field(description="ISO 8601, UTC")


def schemas() -> dict[str, dict[str, Any]]:
    """Return each schema by the name of its file."""
    return {
        f"metrics-{METRICS_VERSION}.schema.json": _metrics(),
        f"result-{VERSION}.schema.json": _of(WholeResult, "result.json of a finished mixdist run"),
        "confusion-1.schema.json": _of(Confusion, "confusion.json of a finished mixdist run"),
    }


def _metrics() -> dict[str, Any]:
    """Return the schema of a line of metrics.jsonl, with the record's own comments as descriptions."""
    schema = TypeAdapter(StepRecord).json_schema()
    properties = {name: _floats(value) for name, value in schema["properties"].items()}
    for name, said in re.findall(r"^    (\w+): [^#]*#: (.*)$", inspect.getsource(StepRecord), flags=re.MULTILINE):
        properties[name]["description"] = said
    properties["data_bound"] = {"type": "boolean", "description": "whether data_wait is above 0.05"}
    required = [*schema["required"], "data_bound"]
    head = {"$schema": _DIALECT, "title": "a line of metrics.jsonl of a mixdist run"}
    return {**head, "type": "object", "properties": properties, "required": required}


def _of(model: type[BaseModel], title: str) -> dict[str, Any]:
    return {"$schema": _DIALECT, **model.model_json_schema(), "title": title}


def _floats(value: dict[str, Any]) -> dict[str, Any]:
    """Let each number of a property also be one of the words for what is not finite."""
    kinds = [one for one in value.get("anyOf", [value]) if "type" in one]
    kept = {key: other for key, other in value.items() if key not in ("anyOf", "type")}
    if not any(one["type"] == "number" for one in kinds):
        return value
    return {**kept, "anyOf": [{"type": one["type"]} for one in kinds] + [_NOT_FINITE]}


def main() -> None:
    """Write the files."""
    for name, schema in schemas().items():
        files.write_json(FOLDER / name, schema)
        sys.stdout.write(f"{FOLDER / name}\n")


if __name__ == "__main__":
    main()
