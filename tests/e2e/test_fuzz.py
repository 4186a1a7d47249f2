"""The fuzz of the data room in short, and a proof that its alarms work."""

from __future__ import annotations

import pickle
import re
import socket
import sys
from pathlib import Path

import pytest
from launching import run

from benchmarks import fuzz_case, fuzz_clips, fuzz_tars, fuzz_ways
from benchmarks.fuzz_case import COUNTED, CRASHED, DELIVERED, LEAKED, RAN_CODE, UNACCOUNTED, run_case
from benchmarks.fuzz_corpus import KINDS, kind_of
from benchmarks.fuzz_ways import DRAW, PACK, POOL
from mixdist.errors import DataError

ROOT = Path(__file__).parents[2]
SHORT = ("--cases", "200", "--processes", "2", "--limit", "120")  # seconds a case: cores may be busy
NAMES = [kind_of(number) for number in range(len(KINDS))]
PICKLES, BOMB, WHOLE, PLAYLIST = (NAMES.index(name) for name in ("pickles", "bomb", "whole", "playlist"))


@pytest.mark.slow
def test_two_hundred_cases_are_all_accounted_for() -> None:
    done = run([sys.executable, "-m", "benchmarks.fuzz", *SHORT], ROOT, timeout_s=300)
    assert done.code == 0, done.out + done.err
    assert re.search(r"^200 cases, seed 0, \d+ s; 0 failures$", done.out, re.MULTILINE)


@pytest.fixture
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "canaries").mkdir()
    monkeypatch.chdir(tmp_path / "canaries")
    return tmp_path / "canaries"


def case(tmp_path: Path, canaries: Path, number: int) -> fuzz_case.Result:
    return run_case(tmp_path, canaries, number, seed=0)


def test_a_reader_that_unpickles_is_caught_by_the_canary(
    tmp_path: Path, canaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps(fuzz_tars.Malicious(str(canaries / "canary")))
    assert case(tmp_path, canaries, PICKLES).outcome == DELIVERED
    monkeypatch.setattr(fuzz_case, "read_samples", lambda split: pickle.loads(content))
    assert case(tmp_path, canaries, PICKLES).outcome == RAN_CODE


def test_a_reader_that_loses_a_sample_is_caught(
    tmp_path: Path, canaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert case(tmp_path, canaries, WHOLE).outcome == DELIVERED
    monkeypatch.setattr(fuzz_case, "read_samples", lambda split: (len(split.index) - 1, 0))
    assert case(tmp_path, canaries, WHOLE).outcome == UNACCOUNTED


def test_an_error_of_another_type_is_caught(tmp_path: Path, canaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_case, "read_samples", lambda split: split.no_such_field)
    assert case(tmp_path, canaries, WHOLE).outcome == CRASHED


def test_a_bomb_is_counted(tmp_path: Path, canaries: Path) -> None:
    assert case(tmp_path, canaries, BOMB).outcome == COUNTED


@pytest.fixture
def bait(monkeypatch: pytest.MonkeyPatch) -> list[fuzz_clips.Bait]:
    """Collect the bait of cases."""
    found: list[fuzz_clips.Bait] = []
    plain = fuzz_clips.playlist
    monkeypatch.setattr(fuzz_clips, "playlist", lambda rng, one: (found.append(one), plain(rng, one))[1])
    return found


def test_a_reader_that_opens_the_address_of_a_playlist_is_caught(
    tmp_path: Path, canaries: Path, monkeypatch: pytest.MonkeyPatch, bait: list[fuzz_clips.Bait]
) -> None:
    def read(split: object) -> None:
        host, port = bait[-1].url.split("/")[2].split(":")
        socket.create_connection((host, int(port))).close()

    assert case(tmp_path, canaries, PLAYLIST).outcome == COUNTED
    monkeypatch.setattr(fuzz_case, "read_samples", read)
    assert case(tmp_path, canaries, PLAYLIST).outcome == LEAKED


@pytest.mark.parametrize("file", [0, 1])
def test_a_secret_that_comes_out_is_caught(
    tmp_path: Path, canaries: Path, monkeypatch: pytest.MonkeyPatch, bait: list[fuzz_clips.Bait], file: int
) -> None:
    monkeypatch.setattr(fuzz_case, "ways_of", lambda number, seed: [PACK])
    kept = lambda folder, beside, *more: str((beside / "out.npy").write_bytes(bait[-1].files[file].read_bytes()))  # noqa: E731
    said = lambda *more: bait[-1].files[file].read_bytes().decode(errors="replace")  # noqa: E731
    for leak in (kept, said):
        monkeypatch.setattr(fuzz_case, "pack_members", leak)
        assert case(tmp_path, canaries, PLAYLIST).outcome == LEAKED


def test_the_further_ways_have_alarms(tmp_path: Path, canaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: str, out: Path, *more: object) -> None:
        out.mkdir()
        raise DataError("refused")

    def fail(*more: object) -> None:
        raise DataError("no")

    broken = {PACK: (fuzz_ways, "pack", refused), DRAW: (fuzz_ways, "DrawnImages", fail)}
    for way, alarm in (broken | {POOL: (fuzz_case, "pooled", lambda *more: (0, 0))}).items():
        with monkeypatch.context() as patch:
            patch.setattr(fuzz_case, "ways_of", lambda number, seed, way=way: [way])
            assert case(tmp_path, canaries, WHOLE).outcome == DELIVERED
            patch.setattr(*alarm)
            assert case(tmp_path, canaries, WHOLE).outcome == UNACCOUNTED
