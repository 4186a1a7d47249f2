"""Which image each one is mixed with, and by how much: x_mix of Eq. 2, and mixup of the baselines (Sec. 4.4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from mixdist.keyed import Ids, bits, make_key, uniform

POINTS = 2**14  # of the table that shares are read from


@dataclass(frozen=True)
class Mixup:
    """The second half of mixed images: target and share, so that ℓ_sl has two targets an image."""

    labels: torch.Tensor  #: int64 [B], of the partners
    share: torch.Tensor  #: float32 [B], λ of each image: what it keeps of itself


def draw_partners(
    seed: int, epoch: int, ids: Ids, candidates: Ids, purpose: str = "partner", begins: Ids | None = None
) -> Ids:
    """Draw one of the candidates for each sample, anew each epoch, keyed by (seed, epoch, sample).

    Args:
        seed: of the run.
        epoch: 0-based.
        ids: of the samples; with ``begins``, all visits of the epoch in their order.
        candidates: D_ssl where D_ssl and D_sl differ (Eq. 2), and D_sl for mixup.
        purpose: of the draw; those of two purposes are independent.
        begins: where windows begin among the candidates; None: all of them are one. A visit at a share of the way
            through ``ids`` draws from the window at that share of the way through the candidates: over the epoch all of
            them are alike, and those drawn one after the other are near one another.
    """
    drawn = bits(make_key(seed, purpose, epoch), ids)[:, 0]
    if begins is None or len(begins) == 1:
        partners: Ids = candidates[(drawn % np.uint64(len(candidates))).astype(np.int64)]
        return partners
    window = np.searchsorted(begins, np.arange(len(ids)) * len(candidates) // len(ids), side="right") - 1
    sizes = np.diff(begins, append=len(candidates)).astype(np.uint64)
    nearby: Ids = candidates[begins[window] + (drawn % sizes[window]).astype(np.int64)]
    return nearby


def draw_shares(seed: int, epoch: int, ids: Ids, concentration: float) -> npt.NDArray[np.float32]:
    """Draw λ ~ Beta(concentration, concentration) for each sample, keyed by (seed, epoch, sample)."""
    drawn = uniform(make_key(seed, "mixup/share", epoch), ids, 2)
    probabilities, values = _lower_half(concentration)
    half = np.interp(drawn[:, 0], probabilities, values)
    return np.where(drawn[:, 1] < 0.5, half, 1 - half).astype(np.float32)


@lru_cache(maxsize=1)
def _lower_half(concentration: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (probabilities, values), both ascending: the distribution of λ ~ Beta(a, a) given that λ <= 1/2.

    The density x^(a − 1)·(1 − x)^(a − 1) is integrated over v, with x = v^p / 2: p = 1/a takes the pole at 0 away
    where a < 1, else p = 1. Worked in logarithms, as x^(a − 1) has no float where a is large.
    """
    power = max(1.0, 1 / concentration)
    v = np.linspace(0, 1, POINTS)
    values = v**power / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.where(concentration > 1, (concentration - 1) * np.log(v), 0.0)
    logs = rising + (concentration - 1) * np.log1p(-values)
    density = np.exp(logs - logs.max())
    summed = np.r_[0.0, np.cumsum((density[1:] + density[:-1]) / 2)]
    return summed / summed[-1], values


def mix_inputs(x: torch.Tensor, partners: torch.Tensor, ratio: float | torch.Tensor) -> torch.Tensor:
    """Return ratio·x + (1 − ratio)·partners, same shape: x_mix of Eq. 2 where ``ratio`` is λ (the label is y_sl)."""
    return ratio * x + (1 - ratio) * partners
