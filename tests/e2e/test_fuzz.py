"""The fuzz of the data room in short, and a proof that its alarms work."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import pytest
from launching import run

from benchmarks import fuzz_case, fuzz_tars
from benchmarks.fuzz_case import COUNTED, CRASHED, DELIVERED, RAN_CODE, UNACCOUNTED, run_case
from benchmarks.fuzz_corpus import KINDS, kind_of

ROOT = Path(__file__).parents[2]
NAMES = [kind_of(number) for number in range(len(KINDS))]
PICKLES, BOMB, WHOLE = (NAMES.index(name) for name in ("pickles", "bomb", "whole"))


@pytest.mark.slow
def test_two_hundred_cases_are_all_accounted_for() -> None:
    done = run([sys.executable, "-m", "benchmarks.fuzz", "--cases", "200", "--processes", "2"], ROOT, timeout_s=300)
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
