"""The paths that only a GPU takes: NCCL's device, a set resident in its memory, bf16 and fp16 by autocast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixdist.engine.checkpoint import Checkpoints

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device; runs on a GPU machine with: pytest -m gpu"
    ),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_three_phases_train_on_a_gpu_from_device_memory(packed_sets: Path, tmp_path: Path, precision: str) -> None:
    command = [
        sys.executable,
        "-m",
        "mixdist.train",
        "--config",
        "configs/quickstart.yaml",
        "--data.sl",
        str(packed_sets / "digits"),
    ]
    flags = ["--method.ssl_epochs", "4", "--method.sl_epochs", "8", "--data.cache", "device", "--train.batch", "64"]
    where = ["--run.dir", str(tmp_path), "--train.precision", precision, "--tracking.wandb", "disabled"]
    subprocess.run([*command, *flags, *where], check=True, timeout=300, cwd=Path(__file__).parents[2])
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["device"] == torch.cuda.get_device_name()
    assert result["precision"] == precision
    assert result["accuracy"] > 15, "better than chance (10 %)"


def test_a_checkpoint_holds_what_was_on_the_gpu_when_save_was_called(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {}, keep=1)
    weight = torch.zeros(50_000_000, device="cuda")
    half = torch.randn(7, 3, device="cuda").bfloat16().T
    for value in (1, 2):  # the second save gets the pinned memory of the first
        weight.fill_(value)
        checkpoints.save(value, {"model": {"weight": weight, "half": half}})
        weight.fill_(-1)
        checkpoints.wait()
        newest = checkpoints.newest()
        assert newest is not None
        loaded = checkpoints.load(newest)["model"]
        assert loaded["weight"].eq(value).all()
        assert loaded["half"].equal(half.cpu())
