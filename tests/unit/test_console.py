"""What the user sees: plain lines in files, a display that does not wrap on a terminal."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rich.console

from mixdist.engine.record import StepRecord
from mixdist.tracking import PhaseInfo, RunInfo, lines
from mixdist.tracking.console import Console, open_console
from mixdist.tracking.screens import LiveScreen, PlainScreen

RECORD = StepRecord(
    step=1, phase="ssl", epoch=1, phase_epoch=1, samples=64, loss=0.5, loss_ssl=0.5, loss_sl=None, lr=3.1e-4,
    lr_reconstruct=3.1e-4, lr_classify=None, alpha=1.0, grad_norm=1.0, images_per_s=5432.1, data_wait=0.004,
    memory_mb=10.0, latency_s=0.1,
)  # fmt: skip
MIX = replace(
    RECORD, step=440, phase="mix", phase_epoch=12, loss=1.234, loss_ssl=0.321, loss_sl=2.147, latency_s=80.0, alpha=0.5
)
PLAN = (PhaseInfo("ssl", 10, 100), PhaseInfo("mix", 30, 900))
RESULT = {
    "accuracy": 61.234,
    "top5": None,
    "evaluation_s": 3.0,
    "checkpoint_s": 2.0,
    "setup_s": 1.0,
    "world_size": 2,
    "device": "cpu",
    "latency_s": 100.4,
    "images_per_s": 5432.1,
    "phases": {"ssl": {"latency_s": 10.4}, "mix": {"latency_s": 90.0}},
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_info(first_step: int = 0) -> RunInfo:
    return RunInfo(Path("runs/my run"), {}, PLAN, first_step, "run", "group", "mixtraining", ("on 2 ranks",))


def plain(first_step: int = 0) -> tuple[Console, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    console = Console(PlainScreen(stream, interval_s=10.0, clock=clock))
    console.start(run_info(first_step))
    return console, stream, clock


def test_a_plain_line_says_all_about_a_record() -> None:
    console, stream, clock = plain()
    console.log(replace(RECORD, step=100, latency_s=12.0))  # ends the SSL phase
    clock.now = 10.0
    console.log(MIX)
    assert stream.getvalue().splitlines()[-1] == (
        "mix  epoch 12/30  step 340/900  loss 1.234 (ssl 0.321, sl 2.147)  lr 3.1e-04  5,432 images/s  "
        "data-wait 0.4 %  ETA phase 01:52, run 01:52"
    )


def test_the_accuracy_last_measured_stays_in_the_line() -> None:
    console, stream, clock = plain()
    console.log(replace(MIX, accuracy=61.2))
    clock.now = 10.0
    console.log(replace(MIX, step=441))
    assert "top-1 61.2 %" in stream.getvalue().splitlines()[-1]


def test_plain_output_has_at_most_one_line_in_an_interval() -> None:
    console, stream, clock = plain()
    before = len(stream.getvalue().splitlines())
    for tick in range(1, 51):
        clock.now = 0.5 * tick  # 25 s
        console.log(replace(RECORD, step=tick))
    shown = stream.getvalue().splitlines()[before:]
    assert [re.findall(r"step (\d+)/", line) for line in shown] == [["1"], ["21"], ["41"]]


def test_phases_and_evaluations_are_always_written() -> None:
    console, stream, _ = plain()
    console.log(RECORD)
    console.log(replace(RECORD, step=100, latency_s=12.0))
    console.log(replace(MIX, accuracy=61.2, top5=88.0))
    console.log(replace(MIX, step=1000, phase_epoch=30, accuracy=70.0))
    assert [line for line in stream.getvalue().splitlines() if "ETA" not in line] == [
        "on 2 ranks",
        "ssl  phase 1 of 2: 10 epochs, 100 steps",
        "ssl  done after step 100, 00:12 of training so far",
        "mix  phase 2 of 2: 30 epochs, 900 steps",
        "mix  epoch 12/30  step 340/900  top-1 61.2 %  top-5 88.0 %  loss 1.234 (ssl 0.321, sl 2.147)",
        "mix  epoch 30/30  step 900/900  top-1 70.0 %  loss 1.234 (ssl 0.321, sl 2.147)",
        "mix  done after step 1000, 01:20 of training so far",
    ]


def test_a_resumed_phase_says_where_it_goes_on() -> None:
    _, stream, _ = plain(first_step=340)
    assert (
        stream.getvalue().splitlines()[-1] == "mix  phase 2 of 2: 30 epochs, 900 steps, going on after step 340 of 1000"
    )


def test_plain_output_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console, stream, _ = plain()
    console.log(replace(MIX, accuracy=61.2))
    console.message("a note")
    console.finish(RESULT)
    assert re.fullmatch(r"[\x20-\x7e\n]+", stream.getvalue())
    assert capsys.readouterr().out == ""


def test_waiting_for_data_is_told_once_and_not_for_the_first_window_of_a_phase() -> None:
    console, stream, _ = plain()
    console.log(replace(RECORD, data_wait=0.9))
    assert "data-bound" not in stream.getvalue()
    for step in (2, 3):
        console.log(replace(RECORD, step=step, data_wait=0.12))
    assert stream.getvalue().count("data-bound: 12 % of the time waits for images") == 1


@pytest.mark.parametrize(
    ("decode", "told"),
    [
        (0.97, "images, the workers are busy for 97 %; raise --data.workers or use --data.cache ram"),
        (0.11, "images, the workers are busy for 11 %; raise --data.workers or use --data.cache ram"),  # this process
        (0.02, "images, yet the workers are busy for 2 % only; more would not help, --data.cache ram may"),
        (0.0, "images, though they are kept decoded: the processor is busy elsewhere, or a step is very short"),
        (None, "images; raise --data.workers or use --data.cache ram"),
    ],
)
def test_who_waits_for_data_is_told_whether_its_workers_are_the_bottleneck(decode: float | None, told: str) -> None:
    console, stream, _ = plain()
    console.log(RECORD)
    console.log(replace(RECORD, step=2, data_wait=0.12, decode=decode))
    assert f"data-bound: 12 % of the time waits for {told}\n" in stream.getvalue()


def test_updates_that_were_left_out_are_told_where_there_are_more_of_them() -> None:
    console, stream, _ = plain()
    for step, skipped in ((1, 0), (2, 3), (3, 3), (4, 4)):
        console.log(replace(RECORD, step=step, skipped=skipped))
    lines = [line for line in stream.getvalue().splitlines() if "left out" in line]
    assert lines == [f"{count} updates left out so far, as loss or gradient was not finite" for count in (3, 4)]


def test_five_percent_of_waiting_is_not_worth_a_warning() -> None:
    console, stream, _ = plain()
    for step in (1, 2):
        console.log(replace(RECORD, step=step, data_wait=0.05))
    assert "data-bound" not in stream.getvalue()


def test_a_finished_run_closes_with_its_summary() -> None:
    console, stream, _ = plain()
    console.finish(RESULT)
    assert stream.getvalue().splitlines()[-6:] == [
        "accuracy    61.23 % top-1 on the test split",
        "latency     01:40 of training (ssl 00:10, mix 01:30)",
        "besides     evaluation 00:03, checkpoints 00:02, set-up 00:01",
        "throughput  5,432 images/s on 2 x cpu",
        "written     runs/my run: ",
        "compare     mixdist compare 'runs/my run'",
    ]


def test_the_summary_names_what_lies_in_the_folder(tmp_path: Path) -> None:
    for name in ("result.json", "lock", "metrics.jsonl", "reconstruction.png", "x.partial"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    told = lines.summary({**RESULT, "top5": 90.0}, tmp_path)
    assert told[0] == "accuracy    61.23 % top-1, 90.00 % top-5 on the test split"
    assert f"written     {tmp_path}: checkpoints/, metrics.jsonl, reconstruction.png, result.json" in told


def test_a_run_without_a_result_says_how_far_it_came() -> None:
    console, stream, _ = plain()
    console.log(MIX)
    console.finish(None)
    assert stream.getvalue().splitlines()[-1] == "stopped at step 440 of 1000; what it wrote is in runs/my run"


def test_a_console_that_never_started_finishes_without_a_word() -> None:
    stream = io.StringIO()
    Console(PlainScreen(stream)).finish(None)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "--:--"), (0, "00:00"), (59.6, "01:00"), (3599, "59:59"), (90061, "25:01:01")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert lines.duration(seconds) == text


def live(width: int = 100) -> tuple[Console, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    screen = rich.console.Console(
        file=stream, force_terminal=True, width=width, color_system=None, legacy_windows=False
    )
    console = Console(LiveScreen(screen, interval_s=0.1, clock=clock))
    console.start(run_info())
    return console, stream, clock


def rows(stream: io.StringIO) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue()).splitlines()


def test_the_display_has_a_line_for_the_phase_one_for_the_run_and_one_for_the_measures() -> None:
    console, stream, _ = live()
    console.log(replace(MIX, step=439, latency_s=79.0))
    phase, run, measures = rows(stream)[-3:]
    console.finish(None)
    assert re.fullmatch(r"mix .* 339/900 +epoch 12/30 ETA 01:41", phase)
    assert re.fullmatch(r"run .* 439/1000 +ETA 01:41", run)
    assert measures == "loss 1.234 (ssl 0.321, sl 2.147)  lr 3.1e-04  5,432 images/s  data-wait 0.4 %"


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_the_display_is_never_wider_than_the_terminal(width: int) -> None:
    console, stream, _ = live(width)
    opening = len(rows(stream))
    console.log(MIX)
    drawn = rows(stream)[opening:]
    console.finish(None)
    assert len(drawn) == 3
    assert max(map(len, drawn)) <= width


def test_the_display_is_drawn_at_most_once_in_its_interval() -> None:
    console, stream, clock = live()
    console.log(RECORD)
    drawn = stream.getvalue()
    console.log(replace(RECORD, step=2))
    assert stream.getvalue() == drawn
    clock.now = 0.1
    console.log(replace(RECORD, step=3))
    assert stream.getvalue() != drawn
    console.finish(None)


def test_finishing_takes_the_display_down_and_gives_the_cursor_back() -> None:
    console, stream, _ = live()
    console.log(RECORD)
    assert stream.getvalue().count("\x1b[?25l") == 1  # cursor hidden
    console.finish(RESULT)
    assert stream.getvalue().count("\x1b[?25h") == 1  # and shown again
    assert rows(stream)[-1] == "compare     mixdist compare 'runs/my run'"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "expected"),
    [
        (Terminal(), "xterm-256color", LiveScreen),
        (Terminal(), "dumb", PlainScreen),
        (io.StringIO(), "xterm-256color", PlainScreen),
    ],
)
def test_only_a_terminal_that_can_move_its_cursor_gets_the_display(
    monkeypatch: pytest.MonkeyPatch, stream: Any, term: str, expected: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", stream)
    assert isinstance(open_console()._screen, expected)
