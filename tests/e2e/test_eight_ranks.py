"""Eight ranks on one machine, as on a machine with eight GPUs, by the command of the README."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from launching import QUIET, TINY_VIT, flags, records, result, run


@pytest.mark.distributed
@pytest.mark.slow
def test_torchrun_with_eight_gloo_ranks_learns_the_digits(packed_sets: Path, tmp_path: Path) -> None:
    settings = {
        **QUIET,
        **TINY_VIT,
        "data.sl": packed_sets / "digits",
        "data.augment": "none",
        "method.ssl_epochs": 2,
        "method.sl_epochs": 4,
        "optim.sl.warmup_epochs": 1,
        "method.mix_ratio": 0.5,
        "optim.ssl.base_lr": 1e-2,
        "optim.sl.base_lr": 6e-2,
        "train.batch": 30,  # neither it nor the tail of 28 is a multiple of 8
        "run.dir": "run",
    }
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    launch = [torchrun, "--standalone", "--nproc_per_node=8", "-m", "mixdist.train"]
    done = run([*launch, *flags(settings)], tmp_path, timeout_s=300)
    assert (done.code, done.errors) == (0, []), done.err
    assert done.out.count("8 processes on cpu") == 1
    found = result(tmp_path / "run")
    assert found["world_size"] == 8
    assert found["samples"] == 6 * 1438 - 1438  # SSL 1, MIX 1, SL 3 epochs
    assert [record["step"] for record in records(tmp_path / "run")] == list(range(1, 5 * 48 + 1))
    assert found["accuracy"] > 40  # ten classes
