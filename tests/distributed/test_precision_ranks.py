"""fp16 and bf16 on ranks: what one alone has not finite is left out on all, which train what one process trains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import precision_ranks
import pytest
import torch
from engine_ranks import POISONED, UPDATES
from launching import run, torchrun

pytestmark = [pytest.mark.minutes, pytest.mark.distributed]


@pytest.fixture(scope="module")
def ended(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    arguments = [str(Path(precision_ranks.__file__)), str(packed_sets / "tiny"), str(folder)]
    for command in ([sys.executable, *arguments], torchrun(2, *arguments)):
        done = run(command, folder)
        assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize(("precision", "scale"), [("fp16", 128.0), ("bf16", 1.0)])
def test_a_gradient_that_one_rank_alone_has_not_finite_is_left_out_on_both_whose_weights_are_those_of_one_process(
    ended: Path, precision: str, scale: float
) -> None:
    one, first, second = (torch.load(ended / f"{precision}-{place}.pt") for place in ("0-of-1", "0-of-2", "1-of-2"))
    for each in (one, first, second):
        assert each["applied"] == [number != POISONED for number in range(UPDATES)]
        assert each["scale"] == scale
    assert all(torch.equal(value, second["end"][name]) for name, value in first["end"].items())
    assert apart(one, first) < 0.02 * apart(one, {"end": one["start"]})


def apart(left: dict[str, Any], right: dict[str, Any]) -> float:
    """Return the distance between the weights that two runs end with."""
    return sum(float((value - right["end"][name]).square().sum()) for name, value in left["end"].items()) ** 0.5
