"""Eight ranks on one machine, as on a machine with eight GPUs, by torchrun as the README has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from launching import QUIET, TINY_VIT, flags, records, result, run, train_here


@pytest.mark.distributed
@pytest.mark.minutes
def test_torchrun_with_eight_gloo_ranks_trains_what_one_process_trains(packed_sets: Path, tmp_path: Path) -> None:
    settings = {
        **QUIET,
        **TINY_VIT,
        "data.sl": packed_sets / "digits",
        "data.fraction": 0.2,  # 287 images
        "method.ssl_epochs": 2,
        "method.sl_epochs": 2,  # one each of SSL, MIX and SL
        "optim.ssl.base_lr": 1e-2,
        "optim.sl.base_lr": 1e-2,
        "train.batch": 60,  # neither it nor the tail of 47 is a multiple of 8
    }
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    launch = [torchrun, "--standalone", "--nproc_per_node=8", "-m", "mixdist.train"]
    done = run([*launch, *flags({**settings, "run.dir": "eight"})], tmp_path, timeout_s=300)
    assert (done.code, done.errors) == (0, []), done.err
    assert done.out.count("8 processes on cpu") == 1
    assert train_here({**settings, "run.dir": tmp_path / "one"}) == 0

    eight, one = (result(tmp_path / name) for name in ("eight", "one"))
    assert (eight["world_size"], one["world_size"]) == (8, 1)
    assert {name: eight[name] for name in ("samples", "accuracy", "top5")} == {
        name: one[name] for name in ("samples", "accuracy", "top5")
    }
    losses = [[record["loss"] for record in records(tmp_path / name)] for name in ("eight", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
