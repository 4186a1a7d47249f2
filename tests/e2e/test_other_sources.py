"""Training from what is not a packed set of images on this machine: a server, tars without an index, video clips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import write_clip
from file_server import Fault, Served, serving
from launching import QUIET, TINY_VIT, Done, flags, mixdist, records, result, run, train

pytestmark = pytest.mark.slow

SETTINGS = {
    **QUIET,
    **TINY_VIT,
    "train.batch": 16,
    "method.ssl_epochs": 2,
    "method.sl_epochs": 2,
    "method.mix_ratio": 0.5,
    "run.dir": "run",
}


@pytest.fixture
def shards(packed_sets: Path, tmp_path: Path) -> Path:
    """The "tiny" set in shards of 20 samples."""
    packed(tmp_path, str(packed_sets / "source"), "shards", "--shard-size", "20", "--labelled-fraction", "0.5")
    return tmp_path / "shards"


@pytest.fixture
def server(shards: Path) -> Iterator[Served]:
    with serving() as served:
        served.files = {f"sets/tiny/{path.name}": path.read_bytes() for path in shards.iterdir()}
        yield served


def packed(folder: Path, *arguments: str) -> Done:
    done = run(mixdist("pack", *arguments), folder)
    assert done.code == 0, done.err
    return done


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in records(folder)]


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.minutes)])
def test_a_remote_set_trains_as_its_copy_on_this_machine_and_each_shard_comes_once(
    shards: Path, server: Served, tmp_path: Path, ranks: int
) -> None:
    server.faults = [Fault(status=503, retry_after="0")]  # of the first request
    settings = {**SETTINGS, "data.cache": "none", "data.shards_at_once": 2, "data.cache_dir": tmp_path / "cache"}
    done = run(train(ranks, {**settings, "data.sl": f"{server.url}/sets/tiny"}), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    local = {**settings, "data.sl": shards, "data.shuffle": "shards", "run.dir": "local"}
    assert run(train(1, local), tmp_path).code == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "local"), rel=1e-4)
    assert result(tmp_path / "run")["accuracy"] == result(tmp_path / "local")["accuracy"]
    tars = [path.name for path in shards.glob("*.tar")]
    assert len(tars) == 7  # 97 images in 5 shards, and 31 to test on in 2
    assert {name: len(server.requests(f"sets/tiny/{name}")) for name in tars} == dict.fromkeys(tars, 1)


def test_a_shard_that_the_server_lost_ends_the_run_with_its_url(server: Served, tmp_path: Path) -> None:
    del server.files["sets/tiny/train-000002.tar"]
    settings = {**SETTINGS, "data.cache_dir": tmp_path / "cache", "data.sl": f"{server.url}/sets/tiny"}
    done = run(train(1, settings), tmp_path)
    assert done.code == 2
    (line,) = done.errors
    assert f"{server.url}/sets/tiny/train-000002.tar" in line
    assert done.own_tracebacks == []


def test_tars_without_an_index_serve_ssl_with_the_reason_why_they_are_not_exact(
    packed_sets: Path, server: Served, tmp_path: Path
) -> None:
    tars = f"{server.url}/sets/tiny/train-{{000000..000004}}.tar"
    settings = {**SETTINGS, "data.sl": packed_sets / "tiny", "data.ssl": tars, "data.cache_dir": tmp_path / "cache"}
    refused = run(train(1, settings), tmp_path)
    assert refused.code == 2
    assert "set data.ssl_samples to the number to draw in an SSL epoch" in refused.errors[0]

    done = run(train(1, {**settings, "data.ssl_samples": 40}), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    assert "no index, so 40 images an epoch are drawn with replacement" in done.out
    steps = [record for record in records(tmp_path / "run") if record["phase"] == "ssl"]
    assert len(steps) == 3  # one epoch of 40 draws in batches of 16
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["phases"][0]["samples"] == 40


def test_tars_as_the_supervised_set_are_refused_with_the_way_to_index_them(server: Served, tmp_path: Path) -> None:
    done = run(train(1, {**SETTINGS, "data.sl": f"{server.url}/sets/tiny/train-000000.tar"}), tmp_path)
    assert done.code == 2
    assert "supervised training needs an index of them; make one with mixdist index" in done.errors[0]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A packed set of 12 clips of 5 to 16 frames in two classes, 8 of them to train on."""
    for number in range(12):
        path = tmp_path / "films" / f"class-{number % 2}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, 5 + number, first=40 * (number % 2))
    packed(tmp_path, "films", "clips", "--video", "clips", "--test-fraction", "0.34")
    return tmp_path / "clips"


@pytest.mark.parametrize("frames", [1, 3])
def test_clips_are_trained_and_tested_on(clips: Path, tmp_path: Path, frames: int) -> None:
    settings = {**SETTINGS, "data.sl": clips, "data.image_size": 8, "data.clip_frames": frames, "train.batch": 4}
    done = run(train(1, settings), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    assert "decoded at each visit" in done.out
    found = result(tmp_path / "run")
    assert found["accuracy"] is not None
    assert found["phases"]["ssl"]["images"] == 8  # clips, however many frames of each


def test_frames_of_clips_are_mixed_into_images(packed_sets: Path, clips: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data.sl": packed_sets / "tiny", "data.ssl": clips, "data.clip_frames": 2}
    done = run(train(1, settings), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    assert {record["phase"] for record in records(tmp_path / "run")} == {"ssl", "mix", "sl"}


def test_a_remote_set_is_checked_by_its_url_and_a_lost_shard_is_named(
    shards: Path, server: Served, tmp_path: Path
) -> None:
    address = server.url.replace("://", "://user:secret@") + "/sets/tiny"
    done = run(mixdist("check", address, "--cache-dir", "cache"), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    here = run(mixdist("check", str(shards)), tmp_path)
    assert done.out.splitlines()[:-1] == here.out.splitlines()[:-1]
    assert done.out.splitlines()[-1] == f"{server.url}/sets/tiny is whole; warnings: 0"
    del server.files["sets/tiny/train-000002.tar"]
    done = run(mixdist("check", address, "--cache-dir", "cache"), tmp_path)
    assert (done.code, done.errors) == (2, []), done.err
    assert "train-000002.tar" in done.out
    assert "there is no such file" in " ".join(done.out.split())
    assert done.out.splitlines()[-1].startswith(f"{server.url}/sets/tiny is damaged: upload the set again")
    assert "secret" not in done.out + done.err
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.minutes
def test_a_label_budget_of_a_remote_set_is_trained_and_its_shards_come_once(server: Served, tmp_path: Path) -> None:
    address = f"{server.url}/sets/tiny".replace("://", "://me:secret@")
    decided = {"data.sl", "method.arm", "run.dir"}
    own = {key: value for key, value in SETTINGS.items() if key not in decided}
    settings = flags({**own, "data.cache_dir": tmp_path / "cache"})
    budget = ["label-budget", address, "--share", "0.5", "1", "--arm", "sl", "--seeds", "0"]
    done = run(mixdist(*budget, "--", *settings), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    place = tmp_path / "runs" / "label-budget-tiny"
    assert {path.name for path in place.iterdir() if path.is_dir()} == {"50pct-sl-seed0", "100pct-sl-seed0"}
    assert (place / "report.html").is_file()
    assert "secret" not in done.out + done.err + (place / "report.md").read_text()
    tars = [name for name in server.files if name.endswith(".tar")]
    assert {name: len(server.requests(name)) for name in tars} == dict.fromkeys(tars, 1)


def test_a_run_from_a_remote_set_is_planned(server: Served, tmp_path: Path) -> None:
    settings = {**SETTINGS, "data.sl": f"{server.url}/sets/tiny", "data.cache_dir": tmp_path / "cache"}
    done = run(mixdist("plan", *flags(settings), "--probe-seconds", "0"), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    assert "SSL 97 images, SL 49 labelled, 3 classes" in done.out
