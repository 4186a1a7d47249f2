"""The benchmarks' command lines on small made sets: what they measure and write, never how fast it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import launching
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
ROWS = ("mixdist", "webdataset_fast", "limit")
PEERS = ("hf_datasets", "hf_datasets_fast", "spdl_fast", "dali", "turboloader")


def benchmark(name: str, *arguments: str | Path, timeout_s: float = launching.TIMEOUT_S) -> launching.Done:
    """Run a benchmark from the root of the repository, where its package lies."""
    return launching.run([sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)], ROOT, timeout_s)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write class folders of 2 x 150 JPEGs of 64 x 64."""
    folder = tmp_path_factory.mktemp("photographs")
    for row in range(300):
        path = folder / f"class{row % 2}" / f"{row:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(row).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(path)
    return folder


@pytest.mark.slow
def test_the_quick_loader_benchmark_writes_the_speed_of_every_row_by_name(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "loader.json"
    options = ("--quick", "--rows", ",".join(ROWS), "--tasks", "decode", "--seconds", "0.1")
    done = benchmark("loader", "--data", photographs, *options, "--work", tmp_path / "work", "--json", out)
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert set(found) >= {"machine", "date", "versions", "images_per_s", "ratios", "peak_rss_mb", "tasks", "missing"}
    assert found["missing"] == {}
    assert found["settings"]["images"] == 256  # whole batches only
    assert all(found["images_per_s"][row] > 0 and found["peak_rss_mb"][row] > 0 for row in ROWS)
    assert found["tasks"]["decode_1"]["images_per_s"] == found["images_per_s"]
    ours, theirs = found["images_per_s"]["mixdist"], found["images_per_s"]["webdataset_fast"]
    assert found["ratios"]["decode_1"]["mixdist/webdataset_fast"] == pytest.approx(ours / theirs, abs=1e-3)
    assert list(found["tasks"]["decode_1"]["less_work"]) == ["limit"]
    assert all(row in done.out for row in ROWS)


@pytest.mark.slow
def test_the_peers_that_are_installed_are_measured_in_both_tasks(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.loader_rows import ROWS as KNOWN

    rows = [row.name for row in KNOWN if row.name in PEERS and not row.missing]
    if not rows:
        pytest.skip("none is installed: pip install -e '.[bench]'")
    out = tmp_path / "loader.json"
    options = ("--quick", "--rows", ",".join(rows), "--tasks", "decode,augment", "--seconds", "0.1")
    command = ("loader", "--data", photographs, *options, "--work", tmp_path / "work", "--json", out)
    done = benchmark(*command, timeout_s=600)
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert (found["missing"], [case["failed"] for case in found["tasks"].values()]) == ({}, [{}, {}])
    assert all(case["images_per_s"].keys() == set(rows) for case in found["tasks"].values())


def test_a_folder_without_images_of_the_benchmarks_size_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "set" / "a" / "0.jpg")
    done = benchmark("loader", "--data", tmp_path / "set", "--work", tmp_path / "work", "--cores", "1")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "64 x 64" in done.err


def test_a_row_that_is_not_known_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = benchmark("loader", "--data", tmp_path, "--rows", "mixdits", "--cores", "1")
    assert done.code == 2
    assert "webdataset_fast" in done.err


@pytest.mark.parametrize("module", ["a_module_that_nobody_has", "a_package_that_nobody_has.module"])
def test_a_loader_that_is_not_installed_is_named_with_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.loader_rows import Row

    missing = Row("x", "nowhere:nothing", needs=module, package="a-package").missing
    assert missing == "not installed: pip install a-package"


def test_a_loader_whose_batches_are_not_of_the_rows_dtype_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import loader_child

    batch = (torch.zeros(256, 64, 64, 3, dtype=torch.uint8), torch.zeros(256))
    monkeypatch.setattr(loader_child, "resolve", lambda way: lambda *arguments: iter([batch]))
    with pytest.raises(SystemExit, match=r"torch\.uint8 .* wants torch\.float32"):
        loader_child.measure(loader_child.Job("", "", "decode", "float32", [0], 256, 0.1))


def test_epochs_that_others_disturbed_count_only_where_too_few_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.loader_child import Measured
    from benchmarks.loader_report import Case, Results
    from benchmarks.loader_rows import ROWS as KNOWN

    results, case = Results({}, {}), Case("decode", [0])
    results.add(case, KNOWN[0], Measured([100.0, 10.0, 102.0], [0.0, 0.5, 0.05], 1.0))
    results.add(case, KNOWN[1], Measured([100.0, 10.0], [0.0, 0.5], 1.0))
    calm, busy = results.figures("decode_1").values()
    assert (calm.images_per_s, calm.stretches, calm.disturbed) == (101.0, 2, False)
    assert (busy.images_per_s, busy.stretches, busy.disturbed) == (55.0, 2, True)


def test_a_loader_that_fails_keeps_its_reason_and_loses_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.loader_child import Measured
    from benchmarks.loader_report import Case, Results, to_json
    from benchmarks.loader_rows import ROWS as KNOWN

    results, case = Results({}, {}), Case("decode", [0])
    results.add(case, KNOWN[0], Measured([100.0], [0.0], 1.0))
    results.add(case, KNOWN[1], Measured([100.0], [0.0], 1.0))
    results.fail(case, KNOWN[1], "failed: a reason")
    written = to_json(results)
    assert list(written["images_per_s"]) == [KNOWN[0].name]
    assert written["tasks"]["decode_1"]["failed"] == {KNOWN[1].name: "failed: a reason"}


@pytest.mark.slow
def test_the_scale_benchmark_writes_time_and_memory_of_a_large_index(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    done = benchmark(
        "scale", "--samples", "400000", "--images", "300", "--runs", "1", "--work", tmp_path / "work", "--json", out
    )
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert found["index"]["open_s"]["median"] > 0
    index_mb = (tmp_path / "work/index-400000/train.index.npy").stat().st_size / 1e6  # 27
    assert found["index"]["extra_peak_rss_mb"]["median"] < index_mb * 2 / 3  # neither a copy nor the whole map
    assert found["first_batch"]["first_batch_s"]["median"] >= found["first_batch"]["of_which_loader_s"]["median"] > 0


def test_the_checkpoint_benchmark_writes_what_a_save_holds_up_and_leaves_no_files(tmp_path: Path) -> None:
    out = tmp_path / "checkpoint.json"
    done = benchmark("checkpoint", "--image-size", "32", "--runs", "1", "--work", tmp_path / "work", "--json", out)
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert found["ratio"] == pytest.approx(found["torch_save_s"][0] / found["stall_s"][0])
    assert found["on_disk_s"][0] >= found["stall_s"][0] > 0
    assert list((tmp_path / "work").iterdir()) == []
