"""`mixdist plan`, by its command line: the plan that training follows, and what it takes, without training."""

from __future__ import annotations

import json
import math

import pytest
from launching import mixdist, run
from PIL import Image

from mixdist.cli import main

SETTINGS = [
    "--model.patch_size=4",
    "--model.options={depth: 1, embed_dim: 24, num_heads: 2}",
    "--model.decoder_depth=1",
    "--model.decoder_heads=2",
    "--method.ssl_epochs=4",
    "--method.sl_epochs=6",
    "--train.batch=16",
]


@pytest.fixture
def plan(packed_sets, tmp_path):
    def command(*arguments, code=0):
        done = run(
            mixdist("plan", f"--data.sl={packed_sets / 'tiny'}", *SETTINGS, "--json", "plan.json", *arguments), tmp_path
        )
        assert done.code == code, done.err
        return done, json.loads((tmp_path / "plan.json").read_text()) if code == 0 else None

    return command


def test_it_says_what_training_will_do(plan, packed_sets, tmp_path):
    done, said = plan("--probe-seconds", "0.1", "--png", "plan.png")
    trained = run(mixdist("train", f"--data.sl={packed_sets / 'tiny'}", *SETTINGS, "--run.dir=run"), tmp_path)
    assert trained.code == 0, trained.err
    assert said["plan"] == json.loads((tmp_path / "run" / "plan.json").read_text())
    assert [phase["last_batch"] for phase in said["phases"]] == [97 % 16, 49 % 16, 49 % 16]
    assert all(phase["step_s"] > 0 for phase in said["phases"])
    assert math.isclose(said["hours"], sum(phase["steps"] * phase["step_s"] / 3600 for phase in said["phases"]))
    assert "lr of B" in done.out
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.size[0] > 600


def test_hours_of_another_machine_follow_from_its_speed_and_the_operations(plan):
    _, one = plan("--speed", "100")
    _, four = plan("--speed", "100", "--ranks", "4")
    work = {phase["name"]: phase["gflop_per_image"] for phase in one["phases"]}
    assert work["mix"] >= work["ssl"] > work["sl"] / 2 > 0
    for phase, shared in zip(one["phases"], four["phases"], strict=True):
        assert math.isclose(phase["step_s"], 16 / 100 * work[phase["name"]] / max(work.values()))
        assert math.isclose(shared["step_s"], phase["step_s"] / 4)
    assert math.isclose(four["gpu_hours"], 4 * four["hours"])
    assert 0.5 <= one["merged_pass_flop_ratio"] < 0.8


def test_memory_grows_with_the_micro_batch_and_is_divided_where_zero_divides_it(plan):
    quiet = ("--probe-seconds", "0")
    whole = plan(*quiet)[1]["memory_bytes"]
    cut = plan(*quiet, "--train.micro_batch", "4")[1]["memory_bytes"]
    zero = plan(*quiet, "--ranks", "2", "--parallel.strategy", "deepspeed", "--train.ema_decay", "0.9")[1][
        "memory_bytes"
    ]
    assert 3 < whole["activations"] / cut["activations"] <= 4
    assert zero["moments"] * 2 == whole["moments"] == 2 * whole["gradients"]
    assert zero["average"] == zero["weights"] == whole["weights"]
    assert whole["total"] == sum(value for name, value in whole.items() if name != "total")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ranks", "0"), "--ranks 0 is out of range"),
        (("--ranks", "17"), "train.batch 16 is smaller than the 17 ranks"),
        (("--speed", "-1"), "--speed -1.0 is out of range"),
        (("--probe-seconds", "nan"), "--probe-seconds nan is out of range"),
        (("--train.bach", "4"), "--train.batch"),
        (("--probe-seconds", "0", "--png", "nowhere/plan.png"), "--png nowhere/plan.png cannot be written: No such"),
    ],
)
def test_what_training_would_refuse_it_refuses(packed_sets, tmp_path, capsys, arguments, said):
    report = tmp_path / "plan.json"
    assert main(["plan", f"--data.sl={packed_sets / 'tiny'}", *SETTINGS, "--json", str(report), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not report.exists()
