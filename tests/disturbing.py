"""A small training to disturb, its ranks as processes, and whether it ended as if nothing had been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from launching import QUIET, TINY_VIT, checkpoints, family

# Digits, half of them: 45 steps an epoch; SSL 1, MIX 2 and SL 1 epochs.
SETTINGS: dict[str, Any] = {
    **QUIET,
    **TINY_VIT,
    "data.fraction": 0.5,
    "method.ssl_epochs": 3,
    "method.sl_epochs": 3,
    "method.mix_ratio": 0.67,
    "optim.ssl.base_lr": 1e-2,
    "optim.sl.base_lr": 1e-2,
    "train.batch": 16,
    "run.dir": "run",
}
STEPS = 180


def ranks_of(launcher: int) -> dict[int, int]:
    """Return the processes that train below a launcher: rank -> pid."""
    found = {}
    for process in family(launcher):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            environment = Path(f"/proc/{process}/environ").read_bytes()
        except OSError:  # ended since it was listed
            continue
        variables = dict(one.split(b"=", 1) for one in environment.split(b"\0") if b"=" in one)
        if b"mixdist.train" in command and b"torch.distributed.run" not in command and b"RANK" in variables:
            found[int(variables[b"RANK"])] = process
    return found


def alive(process: int) -> bool:
    """Whether a process runs, or is stopped; one that has ended and waits for its parent does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def end_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of the newest checkpoint: weights and moments, by their place in it."""
    tensors: dict[str, torch.Tensor] = {}

    def collect(tree: Any, place: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                collect(value, f"{place}.{key}")
        elif isinstance(tree, torch.Tensor):
            tensors[place] = tree

    parts = torch.load(checkpoints(folder)[-1], weights_only=True)["parts"]
    collect({"model": parts["model"], "moments": parts["moments"]}, "")
    return tensors


def differing(one: Path, other: Path) -> list[str]:
    """Return the places at which two runs do not end bit for bit alike."""
    left, right = end_of(one), end_of(other)
    assert left.keys() == right.keys()
    assert left
    return [place for place in left if not torch.equal(left[place], right[place])]
