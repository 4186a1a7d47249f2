"""Whatever wandb does, training goes on: a fake wandb that refuses, raises, blocks or is slow."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mixdist.config.schema import Config
from mixdist.engine.record import StepRecord
from mixdist.tracking import PhaseInfo, RunInfo
from mixdist.tracking.privacy import shareable
from mixdist.tracking.wandb_sink import WandbSink

RECORD = StepRecord(
    step=1, phase="ssl", epoch=1, phase_epoch=1, samples=64, loss=0.5, loss_ssl=0.5, loss_sl=None, lr=3.1e-4,
    lr_reconstruct=3.1e-4, lr_classify=None, alpha=1.0, grad_norm=1.0, images_per_s=5432.1, data_wait=0.004,
    memory_mb=10.0, latency_s=0.1, accuracy=61.2,
)  # fmt: skip
RESULT = {
    "accuracy": 61.2, "top5": None, "latency_s": 8.0, "evaluation_s": 0.5, "checkpoint_s": 0.5, "setup_s": 1.0,
    "wall_s": 11.0, "samples": 640, "images_per_s": 500.0, "memory_mb": 10.0, "skipped": 0, "bad_samples": 0,
    "parameters": 7, "git": "0123abcd", "world_size": 2,
    "phases": {"ssl": {"latency_s": 4.0, "images_per_s": 600.0}, "sl": {"latency_s": 4.0, "images_per_s": 400.0}},
}  # fmt: skip


class FakeRun:
    """wandb's run, as far as the sink uses it."""

    url = "https://wandb.example/runs/1"

    def __init__(self, mode: str, folder: Path, on_log: Callable[[], None]) -> None:
        prefix = "offline-run" if mode == "offline" else "run"
        self.dir = str(folder / "wandb" / f"{prefix}-1" / "files")
        self.on_log = on_log
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.axes: dict[str, str | None] = {}
        self.exit_code: int | None = None
        self.preempting = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.on_log()
        assert step == values.get("step")
        self.logged.append(values)

    def mark_preempting(self) -> None:
        assert self.exit_code is None
        self.preempting = True

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb(ModuleType):
    """The module ``wandb``; ``refused`` are the modes in which init raises."""

    Settings = SimpleNamespace

    def __init__(self, refused: tuple[str, ...] = (), on_log: Callable[[], None] = lambda: None) -> None:
        super().__init__("wandb")
        self.refused, self.on_log = refused, on_log
        self.calls: list[tuple[str, Any]] = []
        self.runs: list[FakeRun] = []

    def Image(self, path: str, caption: str) -> tuple[str, str]:  # noqa: N802
        return path, caption

    def Table(self, columns: list[str], data: list[list[Any]]) -> dict[str, Any]:  # noqa: N802
        return {"columns": columns, "data": data}

    def plot_table(self, data_table: dict[str, Any], **options: Any) -> dict[str, Any]:
        return data_table

    def setup(self, settings: SimpleNamespace) -> None:
        self.calls.append(("setup", settings.silent))

    def teardown(self) -> None:
        self.calls.append(("teardown", None))

    def init(self, **options: Any) -> FakeRun:
        self.calls.append(("init", options))
        if options["mode"] in self.refused:
            raise RuntimeError(f"no {options['mode']} today.\nTry again")
        self.runs.append(FakeRun(options["mode"], Path(options["dir"]), self.on_log))
        return self.runs[-1]

    def inits(self) -> list[dict[str, Any]]:
        return [options for name, options in self.calls if name == "init"]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeWandb], FakeWandb]:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")  # so that what the sink would set does not outlive the test

    def put(fake: FakeWandb) -> FakeWandb:
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return put


def info(folder: Path, **config: Any) -> RunInfo:
    return RunInfo(folder, config, (PhaseInfo("ssl", 1, 9),), 0, "seed0", "digits", "mixtraining", world_size=2)


def sink(said: list[str], mode: Any = "online", **options: Any) -> WandbSink:
    return WandbSink(mode, "project", None, said.append, **options)


def test_a_run_goes_to_wandb_with_samples_as_its_axis(tmp_path: Path, use: Any) -> None:
    fake, said = use(FakeWandb()), []
    tracker = sink(said)
    tracker.start(info(tmp_path))
    tracker.log(RECORD)
    tracker.finish(RESULT)
    (run,) = fake.runs
    assert run.axes == {"samples": None, "epoch": None, "train/*": "samples", "eval/*": "epoch"}
    assert run.logged[0]["samples"] == 64
    assert run.logged[0]["train/loss_ssl"] == 0.5
    assert run.logged[0]["eval/accuracy"] == 61.2
    assert run.logged[0]["train/images_per_s"] == 2 * run.logged[0]["train/images_per_s_per_device"] == 5432.1
    assert not {"train/loss_sl", "train/lr_classify", "eval/top5"} & run.logged[0].keys()  # None values
    assert run.summary == {
        **{name: value for name, value in RESULT.items() if name not in ("phases", "world_size", "top5")},
        "latency_s/ssl": 4.0, "latency_s/sl": 4.0, "images_per_s/ssl": 600.0, "images_per_s/sl": 400.0,
        "images_per_s_per_device": 250.0, "device_hours": pytest.approx(2 * 9 / 3600),
    }  # fmt: skip
    assert run.exit_code == 0
    assert said == ["W&B: https://wandb.example/runs/1"]


def test_the_run_is_described_and_wandb_collects_nothing_by_itself(tmp_path: Path, use: Any) -> None:
    fake = use(FakeWandb())
    tracker = sink([], init_timeout_s=7.0, close_timeout_s=3.0)
    told = replace(info(tmp_path, data={"sl": Path("/secret/set")}), tags=("mixtraining", "x" * 99, "", "mixtraining"))
    tracker.start(replace(told, facts={"git": "0123abcd", "device": "cpu", "place": "/secret/place"}))
    tracker.finish(None)
    (options,) = fake.inits()
    described = {
        name: options[name] for name in ("project", "entity", "name", "group", "job_type", "config", "dir", "tags")
    }
    assert described == {
        "project": "project", "entity": None, "name": "seed0", "group": "digits", "job_type": "mixtraining",
        "config": {"data": {"sl": "set"}, "run_facts": {"git": "0123abcd", "device": "cpu", "place": "place"}},
        "dir": str(tmp_path), "tags": ["mixtraining", "x" * 64],
    }  # fmt: skip
    settings = options["settings"]
    assert (settings.console, settings.disable_git, settings.save_code, settings.silent) == ("off", True, False, True)
    assert settings.x_disable_meta
    assert settings.init_timeout == 7.0
    assert 0 < settings.finish_timeout < 3.0
    assert fake.runs[0].exit_code == 1  # no result: the run did not finish


def test_a_resumed_run_keeps_its_wandb_id(tmp_path: Path, use: Any) -> None:
    fake = use(FakeWandb())
    for _ in range(3):
        tracker = sink([])
        tracker.start(info(tmp_path))
        tracker.finish(None)
    (folder := tmp_path / "other").mkdir()
    other = sink([])
    other.start(info(folder))
    other.finish(None)
    first, second, third, elsewhere = fake.inits()
    assert first["id"] == second["id"] == third["id"] == (tmp_path / "wandb-id.txt").read_text().strip()
    assert first["resume"] == "allow"
    assert elsewhere["id"] != first["id"]


def test_the_id_of_the_checkpoint_counts_and_the_folder_has_it_from_then_on(tmp_path: Path, use: Any) -> None:
    fake = use(FakeWandb())
    (tmp_path / "wandb-id.txt").write_text("0000aaaa")
    resumed = replace(info(tmp_path), carried={"wandb": "1234abcd"})
    first = sink([])
    first.start(resumed)
    first.finish(None)
    fresh = info(tmp_path)  # the same folder, from which the checkpoints are gone
    second = sink([])
    second.start(fresh)
    second.finish(None)
    assert [options["id"] for options in fake.inits()] == ["1234abcd", "1234abcd"]
    assert resumed.carried == fresh.carried == {"wandb": "1234abcd"}  # what the next checkpoints hold


@pytest.mark.parametrize("content", [b"", b"../../x\n", b"\xff", b"a" * 65])
def test_an_id_file_that_is_not_one_gives_way_to_a_new_id(tmp_path: Path, use: Any, content: bytes) -> None:
    fake = use(FakeWandb())
    (tmp_path / "wandb-id.txt").write_bytes(content)
    tracker = sink([])
    tracker.start(info(tmp_path))
    tracker.finish(None)
    assert re.fullmatch("[0-9a-f]{8}", fake.inits()[0]["id"])
    assert (tmp_path / "wandb-id.txt").read_text().strip() == fake.inits()[0]["id"]


def test_a_run_that_is_stopped_waits_for_wandb_a_few_seconds_at_most(
    tmp_path: Path, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixdist.tracking.background.STOP_TIMEOUT_S", 0.1)
    release, said = threading.Event(), []
    use(FakeWandb(on_log=release.wait))
    tracker = sink(said, close_timeout_s=600.0)
    try:
        tracker.start(info(tmp_path))
        tracker.log(RECORD)
        tracker.finish(None)
        assert "W&B did not finish in 0.1 s and is left" in said[-1]
    finally:
        release.set()


@pytest.mark.parametrize(
    ("result", "stopped", "told"), [(RESULT, False, (False, 0)), (None, False, (False, 1)), (None, True, (True, 75))]
)
def test_a_run_that_was_stopped_is_preempted_there_and_one_that_broke_off_has_failed(
    tmp_path: Path, use: Any, result: dict[str, Any] | None, stopped: bool, told: tuple[bool, int]
) -> None:
    fake = use(FakeWandb())
    tracker = sink([])
    tracker.start(info(tmp_path))
    tracker.finish(result, stopped)
    assert (fake.runs[0].preempting, fake.runs[0].exit_code) == told


def test_a_refused_online_run_goes_on_offline_and_says_how_to_upload_it(tmp_path: Path, use: Any) -> None:
    fake, said = use(FakeWandb(refused=("online",))), []
    tracker = sink(said)
    tracker.start(info(tmp_path))
    tracker.log(RECORD)
    tracker.finish(RESULT)
    assert [name for name, _ in fake.calls] == ["setup", "init", "teardown", "init"]
    assert [run.logged[0]["step"] for run in fake.runs] == [1]
    assert said == [f"W&B: offline (no online today. Try again); upload it with: mixdist sync {tmp_path}"]


def test_a_wandb_that_refuses_everything_is_told_of_once_and_counted(tmp_path: Path, use: Any) -> None:
    use(FakeWandb(refused=("online", "offline")))
    said: list[str] = []
    tracker = sink(said)
    tracker.start(info(tmp_path))
    for step in (1, 2, 3):
        tracker.log(replace(RECORD, step=step))
    tracker.finish(RESULT)
    assert said == [
        "W&B is off for the rest of this run (no offline today. Try again)",
        f"W&B did not get 3 records; {tmp_path} has all of them",
    ]


def test_a_missing_wandb_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    tracker = sink(said)
    tracker.start(info(tmp_path))
    tracker.finish(None)
    assert len(said) == 1
    assert said[0].startswith("W&B is off for the rest of this run (import of wandb halted")


def test_a_failing_log_is_told_of_once_and_counted(tmp_path: Path, use: Any) -> None:
    def refuse() -> None:
        raise OSError("disk full")

    fake, said = use(FakeWandb(on_log=refuse)), []
    tracker = sink(said)
    tracker.start(info(tmp_path))
    for step in (1, 2, 3):
        tracker.log(replace(RECORD, step=step))
    tracker.finish(RESULT)
    assert fake.runs[0].logged == []
    assert said[1:] == [
        f"W&B is off for the rest of this run (disk full); upload what it lacks with: mixdist sync {tmp_path}",
        f"W&B did not get 3 records; {tmp_path} has all of them",
    ]


def test_a_wandb_that_hangs_holds_up_neither_the_training_nor_its_end(tmp_path: Path, use: Any) -> None:
    release, entered = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait()

    fake, said = use(FakeWandb(on_log=hang)), []
    tracker = sink(said, close_timeout_s=0.2, capacity=4)
    try:
        tracker.start(info(tmp_path))
        tracker.log(RECORD)
        assert entered.wait(10)
        began = time.monotonic()
        for step in range(2, 1002):  # far more than the queue holds
            tracker.log(replace(RECORD, step=step))
        assert time.monotonic() - began < 1
        tracker.finish(RESULT)
        assert time.monotonic() - began < 5
        assert said[1:] == [
            f"W&B did not finish in 0.2 s and is left; upload what it lacks with: mixdist sync {tmp_path}"
        ]
        assert fake.runs[0].logged == []
    finally:
        release.set()


def test_what_happens_after_the_sink_gave_up_is_not_told(tmp_path: Path, use: Any) -> None:
    release, entered = threading.Event(), threading.Event()

    def hang_then_fail() -> None:
        entered.set()
        release.wait()
        raise OSError("too late")

    use(FakeWandb(on_log=hang_then_fail))
    said: list[str] = []
    tracker = sink(said, close_timeout_s=0.0)
    tracker.start(info(tmp_path))
    tracker.log(RECORD)
    assert entered.wait(10)
    tracker.finish(None)
    told = list(said)
    release.set()
    assert tracker._thread is not None
    tracker._thread._thread.join(10)
    assert said == told


def test_a_slow_wandb_gets_what_the_queue_holds_and_the_rest_is_counted(tmp_path: Path, use: Any) -> None:
    release, entered = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        release.wait()

    fake, said = use(FakeWandb(on_log=slow)), []
    tracker = sink(said, capacity=4)
    tracker.start(info(tmp_path))
    tracker.log(RECORD)
    assert entered.wait(10)
    for step in range(2, 12):
        tracker.log(replace(RECORD, step=step))
    release.set()
    tracker.finish(RESULT)
    assert [values["step"] for values in fake.runs[0].logged] == [1, 2, 3, 4, 5]
    assert said[-1] == f"W&B did not get 6 records; {tmp_path} has all of them"


def test_tables_that_wandb_refuses_cost_neither_the_summary_nor_the_end(tmp_path: Path, use: Any) -> None:
    fake, said = use(FakeWandb()), []
    (tmp_path / "confusion.json").write_text("{")
    tracker = sink(said)
    tracker.start(info(tmp_path))
    tracker.finish(RESULT)
    assert fake.runs[0].summary["accuracy"] == 61.2
    assert fake.runs[0].exit_code == 0
    assert said[-1].startswith("W&B did not get the pictures and tables of the end (")


@pytest.mark.parametrize("images", [False, True])
def test_pictures_go_only_where_that_was_asked_for(tmp_path: Path, use: Any, images: bool) -> None:
    fake = use(FakeWandb())
    (tmp_path / "reconstruction.png").write_bytes(b"PNG")
    tracker = sink([], images=images)
    tracker.start(info(tmp_path))
    tracker.log(replace(RECORD, reconstruction="reconstructions/epoch-0001.png"))
    tracker.finish(RESULT)
    sent = [values["reconstructions"] for values in fake.runs[0].logged if "reconstructions" in values]
    names = [Path(path).relative_to(tmp_path).as_posix() for path, _ in sent]
    assert names == (["reconstructions/epoch-0001.png", "reconstruction.png"] if images else [])
    assert not any(
        "epoch-0001" in str(value) for name, value in fake.runs[0].logged[0].items() if name != "reconstructions"
    )


def test_the_confusion_matrix_and_each_class_are_sent_at_the_end(tmp_path: Path, use: Any) -> None:
    fake = use(FakeWandb())
    (tmp_path / "confusion.json").write_text(
        '{"classes": ["ash", "elm", "fir"], "counts": [[3, 1, 0], [0, 2, 0], [0, 0, 0]]}'
    )
    tracker = sink([])
    tracker.start(info(tmp_path))
    tracker.finish(RESULT)
    (sent,) = fake.runs[0].logged
    assert sent["per_class"]["data"] == [["ash", 75.0, 4], ["elm", 100.0, 2], ["fir", None, 0]]
    assert sent["confusion"]["data"][:4] == [["ash", "ash", 3], ["ash", "elm", 1], ["ash", "fir", 0], ["elm", "ash", 0]]
    assert len(sent["confusion"]["data"]) == 9


def test_the_thread_cannot_keep_the_process_alive(tmp_path: Path, use: Any) -> None:
    use(FakeWandb())
    tracker = sink([])
    tracker.start(info(tmp_path))
    assert tracker._thread is not None
    assert tracker._thread._thread.daemon
    tracker.finish(None)


def test_a_sink_that_never_started_finishes_without_a_word() -> None:
    said: list[str] = []
    sink(said).finish(None)
    assert said == []


def test_only_the_last_component_of_a_path_is_shared() -> None:
    config = {
        "data": {"sl": Path("/home/ann/cancer/set"), "ssl": "relative/name", "cache": "auto"},
        "run": {"dir": "runs/digits"},
        "model": {"options": {"weights": "~/private/w.pt", "mirror": "s3://bucket/key.tar?token=abc", "depth": 4}},
        "optim": {"sl": {"betas": (0.9, 0.95)}, "files": ["C:\\Users\\ann\\x.npy"]},
        "method": {"arm": "ssl+sl"},
        "seed": 0,
    }
    assert shareable(config) == {
        "data": {"sl": "set", "ssl": "name", "cache": "auto"},
        "run": {"dir": "digits"},
        "model": {"options": {"weights": "w.pt", "mirror": "key.tar", "depth": 4}},
        "optim": {"sl": {"betas": [0.9, 0.95]}, "files": ["x.npy"]},
        "method": {"arm": "ssl+sl"},
        "seed": 0,
    }
    assert config["data"]["sl"] == Path("/home/ann/cancer/set")  # the config itself is as it was


def test_every_setting_that_is_a_path_is_shared_by_its_last_component_alone() -> None:
    secret = "clients/acme/last"
    config = Config.model_validate(
        {
            "data": {"sl": secret, "ssl": secret, "cache_dir": secret, "tasks": {"letters": {"path": secret}}},
            "parallel": {"strategy": "deepspeed", "deepspeed_config": secret},
            "run": {"dir": secret},
        }
    ).model_dump(mode="json")  # as trackers are told: paths are text
    sent = shareable(config)
    assert json.dumps(config).count("acme") == 6
    assert "acme" not in json.dumps(sent)
    assert json.dumps(sent).count('"last"') == 6
