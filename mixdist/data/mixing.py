"""Eq. 2: the mixed input x_mix = λ·x_sl + (1 − λ)·x_ssl, and which x_ssl each x_sl meets."""

from __future__ import annotations

import numpy as np
import torch

from mixdist.keyed import Ids, bits, make_key


def draw_partners(seed: int, epoch: int, ids: Ids, candidates: Ids) -> Ids:
    """Draw one sample of D_ssl for each sample of D_sl, anew each epoch (Eq. 2), keyed by (seed, epoch, sample)."""
    drawn = bits(make_key(seed, "partner", epoch), ids)[:, 0]
    partners: Ids = candidates[(drawn % np.uint64(len(candidates))).astype(np.int64)]
    return partners


def mix_inputs(x_sl: torch.Tensor, x_ssl: torch.Tensor, input_ratio: float) -> torch.Tensor:
    """Return x_mix, same shape; ``input_ratio`` is λ. The label that goes with it is y_sl."""
    return input_ratio * x_sl + (1 - input_ratio) * x_ssl
