"""TensorBoard gets what the records hold, over steps; what goes wrong with it does not stop a training."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runs import make_records, png

from mixdist.config.run_section import TrackingConfig
from mixdist.errors import UserError
from mixdist.tracking import PhaseInfo, RunInfo, main_trackers
from mixdist.tracking.tensorboard import TensorBoard

pytest.importorskip("tensorboard")
RECORDS = make_records("mixtraining", 0, 70.0)


def info(folder: Path, first_step: int = 0) -> RunInfo:
    return RunInfo(folder, {}, (PhaseInfo("ssl", 4, 40),), first_step, "a", "b", "sl", world_size=2)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_numbers_and_pictures_are_there_by_their_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "picture.png").write_bytes(png())
    tracker = TensorBoard(print)
    tracker.start(info(tmp_path))
    for record in (*RECORDS[:-1], replace(RECORDS[-1], reconstruction="picture.png", loss=float("nan"))):
        tracker.log(record)
    tracker.finish(None)
    assert scalars(tmp_path, "train/lr") == [(record.step, pytest.approx(record.lr)) for record in RECORDS]
    evaluated = [(record.step, pytest.approx(record.accuracy)) for record in RECORDS if record.accuracy is not None]
    assert scalars(tmp_path, "eval/accuracy") == evaluated
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(image.step, image.width, image.height) for image in events.Images("reconstructions")] == [
        (RECORDS[-1].step, 96, 36)
    ]


def test_a_resume_hides_what_lies_beyond_its_checkpoint(tmp_path: Path) -> None:
    for records, first_step in ((RECORDS[:10], 0), (RECORDS[5:8], RECORDS[4].step)):
        tracker = TensorBoard(print)
        tracker.start(info(tmp_path, first_step))
        for record in records:
            tracker.log(replace(record, grad_norm=1.0 + first_step))
        tracker.finish(None)
    expected = [(record.step, 1.0) for record in RECORDS[:5]] + [(record.step, 11.0) for record in RECORDS[5:8]]
    assert scalars(tmp_path, "train/grad_norm") == expected


def test_an_error_turns_it_off_with_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = TensorBoard(said.append)
    tracker.start(info(tmp_path))
    tracker.log(replace(RECORDS[0], reconstruction="absent.png"))
    tracker.log(RECORDS[1])
    tracker.finish(None)
    assert len(said) == 1
    assert said[0].startswith("TensorBoard is off for the rest of this run (")


def test_it_is_off_unless_asked_for_and_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [
        [type(one).__name__ for one in main_trackers(TrackingConfig(wandb="disabled", tensorboard=asked))._trackers]
        for asked in (False, True)
    ]
    assert kinds == [["JsonLines", "Console"], ["JsonLines", "Console", "TensorBoard"]]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'mixdist\[tensorboard\]'"):
        TensorBoard(print).start(info(tmp_path))
