"""The settings of a small training that tests disturb."""

from __future__ import annotations

from typing import Any

from launching import QUIET, TINY_VIT

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
