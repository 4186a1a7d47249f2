"""The shipped JSON Schemas are those of the code, take what a run writes, and refuse what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_records, write_run
from jsonschema import Draft202012Validator

from mixdist.engine import result as engine_result
from mixdist.errors import UserError
from mixdist.report import run as report_run
from mixdist.report.run import read_run
from mixdist.report.schema import FOLDER, schemas
from mixdist.tracking import PhaseInfo, RunInfo
from mixdist.tracking.jsonl import JsonLines


def test_the_shipped_schemas_are_up_to_date() -> None:
    shipped = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.iterdir()}
    assert shipped == schemas(), "run: python -m mixdist.report.schema"


def test_those_who_write_and_those_who_read_name_the_same_versions() -> None:
    for name in ("FORMAT", "VERSION", "METRICS_VERSION"):
        assert getattr(engine_result, name) == getattr(report_run, name)


@pytest.fixture
def validator() -> Draft202012Validator:
    schema = schemas()["metrics-1.schema.json"]
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_every_field_is_described_and_numbers_that_are_not_finite_are_words(
    tmp_path: Path, validator: Draft202012Validator
) -> None:
    assert all(field.get("description") for field in validator.schema["properties"].values())
    lines = JsonLines()
    lines.start(RunInfo(tmp_path, {}, (PhaseInfo("ssl", 1, 9),), 0, "a", "b", "sl"))
    record = make_records("sl", 0, 70.0)[0]
    for loss in (0.5, float("nan"), float("inf"), float("-inf")):
        lines.log(replace(record, loss=loss))
    lines.finish(None)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        validator.validate(json.loads(line))


@pytest.mark.parametrize(
    "wrong", [{"step": "1"}, {"loss": None}, {"loss": "not a number"}, {"data_bound": 1}, {"accuracy": "high"}]
)
def test_what_is_no_record_is_refused(validator: Draft202012Validator, wrong: dict[str, Any]) -> None:
    record = make_records("sl", 0, 70.0)[0].as_dict()
    assert validator.is_valid(record)
    assert validator.is_valid({**record, "a later field": 1})
    assert not validator.is_valid({**record, **wrong})
    assert not validator.is_valid({name: value for name, value in record.items() if name not in wrong} | {"loss": None})


def test_metrics_of_another_version_leave_the_run_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics.jsonl has format version 2, this mixdist reads 1"):
        read_run(write_run(tmp_path / "a", result={"metrics_version": 2}))
