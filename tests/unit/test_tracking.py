"""The fan-out to trackers, metrics.jsonl, and the arithmetic of progress."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixdist.config.run_section import TrackingConfig
from mixdist.engine.record import StepRecord
from mixdist.errors import UserError
from mixdist.tracking import PhaseInfo, RunInfo, Trackers, main_trackers
from mixdist.tracking.jsonl import JsonLines
from mixdist.tracking.progress import Progress

RECORD = StepRecord(
    step=1, phase="mix", epoch=1, phase_epoch=1, samples=64, loss=1.5, loss_ssl=0.5, loss_sl=2.5, lr=1e-3,
    lr_reconstruct=1e-3, lr_classify=1e-3, alpha=0.5, grad_norm=1.0, images_per_s=100.0, data_wait=0.0,
    memory_mb=10.0, latency_s=0.5,
)  # fmt: skip


def info(folder: Path, first_step: int = 0) -> RunInfo:
    return RunInfo(folder, {}, (PhaseInfo("mix", 2, 10),), first_step, "run", "group", "mixtraining")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Recorder:
    """A tracker that writes down what it is told, and can refuse to finish."""

    def __init__(self, name: str, told: list[tuple[Any, ...]], fails: bool = False) -> None:
        self.name, self.told, self.fails = name, told, fails

    def start(self, info: RunInfo) -> None:
        self.told.append((self.name, "start", info.run_name))

    def log(self, record: StepRecord) -> None:
        self.told.append((self.name, "log", record.step))

    def message(self, text: str) -> None:
        self.told.append((self.name, "message", text))

    def finish(self, result: dict[str, Any] | None, stopped: bool = False) -> None:
        self.told.append((self.name, "finish", result))
        if self.fails:
            raise OSError("disk full")


def test_trackers_tell_each_one_everything_in_order(tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    trackers = Trackers(Recorder("a", told), Recorder("b", told))
    trackers.start(info(tmp_path))
    trackers.log(RECORD)
    trackers.message("hello")
    trackers.finish(None)
    calls = [("start", "run"), ("log", 1), ("message", "hello"), ("finish", None)]
    assert told == [(name, *call) for call in calls for name in "ab"]


def test_a_tracker_that_fails_to_finish_does_not_keep_the_next_from_it() -> None:
    told: list[tuple[Any, ...]] = []
    trackers = Trackers(Recorder("a", told, fails=True), Recorder("b", told))
    with pytest.raises(OSError, match="disk full"):
        trackers.finish(None)
    assert told == [("a", "finish", None), ("b", "finish", None)]


def test_each_record_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    sink = JsonLines()
    sink.start(info(tmp_path))
    sink.log(RECORD)
    assert lines_of(tmp_path) == [RECORD.as_dict()]
    sink.log(replace(RECORD, step=2))
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]
    sink.finish(None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_written_as_strict_json_that_float_reads_back(tmp_path: Path, value: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    sink = JsonLines()
    sink.start(info(tmp_path))
    sink.log(replace(RECORD, grad_norm=value))
    sink.finish(None)
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert float(line["grad_norm"]) == pytest.approx(value, nan_ok=True)


def write_steps(folder: Path, *steps: int) -> None:
    sink = JsonLines()
    sink.start(info(folder))
    for step in steps:
        sink.log(replace(RECORD, step=step))
    sink.finish(None)


def test_a_fresh_start_empties_the_file_of_an_earlier_run(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2, 3)
    write_steps(tmp_path)
    assert lines_of(tmp_path) == []


def test_a_resumed_run_goes_on_after_the_last_step_of_its_checkpoint(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2, 3, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "pha')  # what a kill leaves
    sink = JsonLines()
    sink.start(info(tmp_path, first_step=3))
    sink.log(replace(RECORD, step=4))
    sink.finish(None)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4]


def test_a_torn_last_line_is_dropped_even_where_its_step_was_trained(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}')  # no newline: the write was cut
    JsonLines().start(info(tmp_path, first_step=3))
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


def test_a_damaged_line_is_named_and_the_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(tmp_path, 1, 2)
    damaged = path.read_bytes() + b"oops\n" + path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"metrics\.jsonl line 3 is not a record"):
        JsonLines().start(info(tmp_path, first_step=2))
    assert path.read_bytes() == damaged


def test_a_run_resumed_without_its_metrics_file_starts_a_new_one(tmp_path: Path) -> None:
    JsonLines().start(info(tmp_path, first_step=3))
    assert lines_of(tmp_path) == []


PLAN = (PhaseInfo("ssl", 2, 10), PhaseInfo("mix", 4, 20), PhaseInfo("sl", 6, 30))


def at(step: int, latency_s: float) -> StepRecord:
    return replace(RECORD, step=step, latency_s=latency_s)


def test_the_rate_of_the_current_phase_stands_in_for_the_coming_ones() -> None:
    progress = Progress(PLAN, 0)
    ssl = progress.advance(at(5, 5.0))  # 1 s a step
    assert (ssl.phase.name, ssl.phase_step, ssl.eta_phase_s, ssl.eta_run_s) == ("ssl", 5, 5.0, 55.0)
    end = progress.advance(at(10, 10.0))
    assert end.ends_phase
    assert end.eta_phase_s == 0
    mix = progress.advance(at(20, 40.0))  # 3 s a step, whatever a step of the SSL phase took
    assert (mix.phase.name, mix.phase_step, mix.eta_phase_s, mix.eta_run_s) == ("mix", 10, 30.0, 120.0)


def test_no_rate_is_known_at_the_first_record_after_a_resume() -> None:
    progress = Progress(PLAN, 12)
    assert progress.advance(at(14, 500.0)).eta_run_s is None
    assert progress.advance(at(16, 502.0)).eta_run_s == 44.0


@given(steps=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
def test_the_steps_of_the_phases_partition_the_run(steps: list[int]) -> None:
    plan = [PhaseInfo(str(number), 1, count) for number, count in enumerate(steps)]
    progress = Progress(plan, 0)
    for step in range(1, sum(steps) + 1):
        assert progress.phase_after(step - 1) == (standing := progress.advance(at(step, float(step)))).number
        assert 1 <= standing.phase_step <= standing.phase.steps
        assert sum(steps[: standing.number]) + standing.phase_step == step
    assert progress.phase_after(sum(steps)) is None


@pytest.mark.parametrize(
    ("asked", "environment", "sinks"),
    [
        ("disabled", "online", ["JsonLines", "Console"]),
        ("auto", "disabled", ["JsonLines", "Console"]),
        ("auto", "", ["JsonLines", "Console", "WandbSink:online"]),
        ("auto", "offline", ["JsonLines", "Console", "WandbSink:offline"]),
        ("online", "offline", ["JsonLines", "Console", "WandbSink:online"]),
        ("offline", "online", ["JsonLines", "Console", "WandbSink:offline"]),
    ],
)
def test_wandb_mode_counts_where_the_config_leaves_it_open(
    monkeypatch: pytest.MonkeyPatch, asked: Any, environment: str, sinks: list[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", environment)
    trackers = main_trackers(TrackingConfig(wandb=asked))._trackers
    assert [type(sink).__name__ + f":{getattr(sink, '_mode', '')}".rstrip(":") for sink in trackers] == sinks
