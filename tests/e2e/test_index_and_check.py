"""The commands `mixdist index` and `mixdist check`, as a user types them, and training on what they leave."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from launching import QUIET, TINY_VIT, mixdist, result, run, train_here
from PIL import Image


def write_tar(path: Path, count: int, classes: tuple[str, ...], seed: int) -> Path:
    """Write noisy 8 px images with class names, as another tool does."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for row in range(count):
            image = io.BytesIO()
            noisy = 60 * (row % len(classes)) + generator.integers(0, 60, (8, 8, 3))
            Image.fromarray(noisy.astype(np.uint8)).save(image, "PNG")
            for extension, content in (("png", image.getvalue()), ("cls", classes[row % len(classes)].encode())):
                info = tarfile.TarInfo(f"{path.stem}/{row}.{extension}")
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number, name in enumerate(("x-train-0", "x-train-1", "x-val-0")):
        write_tar(tmp_path / "tars" / f"{name}.tar", 24, ("ash", "birch", "cedar"), number)
    return tmp_path / "tars"


@pytest.mark.slow
def test_tars_of_another_tool_are_indexed_checked_and_trained_on(tars: Path, tmp_path: Path) -> None:
    done = run(mixdist("index", "tars"), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    assert "indexed tars: 72 of 72 samples, 3 classes" in done.out
    assert "mixdist check tars" in done.out
    done = run(mixdist("check", "tars", "--strict"), tmp_path)
    assert (done.code, done.errors) == (0, []), done.err
    assert done.out.rstrip().endswith("tars is whole; warnings: 0")
    assert "\x1b" not in done.out  # plain in a file
    settings = {**QUIET, **TINY_VIT, "train.batch": 16, "method.ssl_epochs": 1, "method.sl_epochs": 1}
    assert train_here({**settings, "method.arm": "sl", "data.sl": tars, "run.dir": tmp_path / "run"}) == 0
    assert result(tmp_path / "run")["phases"]["sl"]["images"] == 48


def test_bad_samples_end_the_command_and_leave_nothing_or_are_counted(tars: Path, tmp_path: Path) -> None:
    path = tars / "x-train-1.tar"
    path.write_bytes(path.read_bytes()[:-12_000])
    before = sorted(file.name for file in tars.iterdir())
    done = run(mixdist("index", "tars"), tmp_path)
    assert done.code == 2
    assert len(done.errors) == 1
    assert "x-train-1.tar, byte" in done.errors[0]
    assert "--skip-bad" in done.errors[0]
    assert done.own_tracebacks == []
    assert sorted(file.name for file in tars.iterdir()) == before
    done = run(mixdist("index", "tars", "--skip-bad"), tmp_path)
    assert (done.code, done.errors) == (0, [])
    assert "unreadable shard" in done.out


def test_damage_gives_exit_code_2_and_warnings_do_so_only_when_strict(tars: Path, tmp_path: Path) -> None:
    write_tar(tars / "x-val-1.tar", 24, ("ash", "birch", "cedar"), seed=0)  # the images of x-train-0
    assert run(mixdist("index", "tars"), tmp_path).code == 0
    done = run(mixdist("check", "tars"), tmp_path)
    assert (done.code, done.errors) == (0, [])
    assert "24 of the test samples (50.00%) are in train too" in " ".join(done.out.split())
    assert run(mixdist("check", "tars", "--strict"), tmp_path).code == 2
    content = bytearray((tars / "x-train-0.tar").read_bytes())
    content[700] ^= 1
    (tars / "x-train-0.tar").write_bytes(content)
    done = run(mixdist("check", "tars", "--decode", "all"), tmp_path)
    assert (done.code, done.errors) == (2, [])
    assert "changed shard" in done.out
    assert done.own_tracebacks == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("index", "missing"), "DIR missing is not a folder"),
        (("index", "tars", "--workers", "0"), "--workers 0 is out of range"),
        (("check", "tars"), "has no manifest.json"),
        (("check", "tars", "--decode", "some"), "--decode some is not a number"),
        (("check",), "required: SET"),
    ],
)
def test_mistakes_are_one_line(tars: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(mixdist(*arguments), tmp_path)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert said in done.errors[0]
