"""A hundred steps of each arm and backbone give the losses on record: digit by digit on the machine type that they
were recorded on, to a tolerance elsewhere. Recorded anew, after a change that is meant to move them, by

    python tests/numerics/test_golden_curves.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from tiny_run import family_config, make_trainer, tiny_config, tiny_set

from mixdist.config.schema import Config

GOLDEN = Path(__file__).parent / "golden"
CASES = [(arm, backbone) for arm in ("sl", "ssl+sl", "mixtraining") for backbone in ("vit", "resnet")]
STEPS = 100
ELSEWHERE = 0.02  # relative; other instruction sets round otherwise, and AdamW carries that on


def machine_type() -> str:
    """Return what the last digits of a sum depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {', '.join(sorted(names))}"


def config_of(arm: str, backbone: str, data: Path, run: Path) -> Config:
    """Return a run of 20 epochs of five steps: 48 images in batches of 10, the last of 8."""
    epochs = STEPS // 5
    share = {"sl": (0, epochs), "ssl+sl": (epochs // 2, epochs // 2), "mixtraining": (12, 12)}[arm]  # mix: 4 + 8 + 4
    changes = {
        "method.arm": arm,
        "method.ssl_epochs": share[0],
        "method.sl_epochs": share[1],
        "method.mix_ratio": 0.34,
        "train.batch": 10,
        "train.eval_every": 1000,
        "optim.ssl.base_lr": 0.01,
        "optim.sl.base_lr": 0.01,
    }
    tiny = tiny_config(data, run, changes).model_dump()
    return Config.model_validate({**tiny, "model": family_config(backbone, data, run).model_dump()["model"]})


def curve(arm: str, backbone: str, folder: Path) -> list[str]:
    """Train, and return a line a step: step, phase, both losses and the gradient's norm."""
    data = tiny_set(folder / "set", train=48, test=6, size=32)
    run = make_trainer(config_of(arm, backbone, data, folder / "run"))
    return [
        f"{record.step} {record.phase} {record.loss_ssl!r} {record.loss_sl!r} {record.grad_norm!r}"
        for record in run.records()
    ]


def numbers(line: str) -> list[float]:
    return [float(word) for word in line.split()[2:] if word != "None"]


@pytest.mark.parametrize(("arm", "backbone"), CASES)
def test_a_hundred_steps_give_the_losses_on_record(tmp_path, arm, backbone):
    recorded_on, *golden = (GOLDEN / f"{arm}-{backbone}.txt").read_text().splitlines()
    found = curve(arm, backbone, tmp_path)
    assert len(golden) == STEPS
    if recorded_on == machine_type():
        assert found == golden
    assert [line.split()[:2] for line in found] == [line.split()[:2] for line in golden]
    for ours, theirs in zip(found, golden, strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=ELSEWHERE), (ours, theirs)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in CASES:
        with tempfile.TemporaryDirectory() as place:
            lines = [machine_type(), *curve(*each, Path(place))]
        (GOLDEN / f"{'-'.join(each)}.txt").write_text("\n".join(lines) + "\n")
