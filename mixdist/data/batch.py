"""Batch: what leaves the data room, and what the model is fed once it is augmented, normalised and mixed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mixdist.data.augment import DRAWS, Augmentation, augment, normalise
from mixdist.data.copies import to_device
from mixdist.data.mixing import Mixup, mix_inputs
from mixdist.keyed import Ids, make_key, uniform


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank."""

    images: torch.Tensor  #: uint8 [B, S, S, 3]
    labels: torch.Tensor  #: int64 [B], -1 where unlabelled
    weight: torch.Tensor  #: float32 [B], 1; a share of it for a frame of a clip; 0 for a row that does not count
    ids: Ids  #: visits (`order.sample_of`), which all randomness is keyed by
    epoch: int  #: 0-based, over the whole run
    partners: torch.Tensor | None = None  #: uint8 [B, S, S, 3], x_ssl of Eq. 2 where D_ssl and D_sl differ; or mixup's
    mixup: Mixup | None = None  #: how the partners are mixed in, where that is not by λ of Eq. 2
    sets: torch.Tensor | None = None  #: int64 [B], the labelled set of each image, where there are several
    whole: bool = False  #: known on the host, without asking the device: no row has weight 0
    counts: tuple[float, float] = (math.nan, math.nan)  #: likewise: summed weights, of all rows and of labelled ones


@dataclass(frozen=True)
class Inputs:
    """A batch as the model takes it."""

    images: torch.Tensor  #: float32 [B, 3, S, S], normalised
    labels: torch.Tensor  #: int64 [B]
    weight: torch.Tensor  #: float32 [B]
    mixup: Mixup | None = None  #: the second target of each image, where it has two
    heads: torch.Tensor | None = None  #: int64 [classes], the head that each logit is of, where there are several


@dataclass(frozen=True)
class Statistics:
    """Channel means and deviations of one set, in [0, 1]."""

    mean: torch.Tensor  #: float32 [3]
    std: torch.Tensor  #: float32 [3]

    @staticmethod
    def of(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Statistics:
        """Move a set's statistics to a device; a channel that never varies keeps its scale."""
        deviations = torch.tensor([value or 1.0 for value in std], dtype=torch.float32, device=device)
        return Statistics(torch.tensor(mean, dtype=torch.float32, device=device), deviations)


@dataclass(frozen=True)
class Preparation:
    """From a Batch to Inputs, on the device; a pure function of (seed, epoch, sample)."""

    seed: int
    augmentation: Augmentation
    own: Statistics  #: of the set that the images come from
    partner: Statistics  #: of the set that the partners come from
    input_ratio: float  #: λ of Eq. 2
    sets: Statistics | None = None  #: of each labelled set, where there are several: [sets, 3]
    heads: torch.Tensor | None = None  #: see `Inputs`

    def __call__(self, batch: Batch) -> Inputs:
        """Augment and normalise each image by its own set's statistics, then mix (Eq. 2, or mixup) with its partner."""
        own = self.own
        if self.sets is not None and batch.sets is not None:
            own = Statistics(self.sets.mean[batch.sets], self.sets.std[batch.sets])
        images = self._view(batch, batch.images, own, "augment")
        if batch.partners is not None:
            partners = self._view(batch, batch.partners, self.partner, "augment/partner")
            ratio = batch.mixup.share[:, None, None, None] if batch.mixup else self.input_ratio
            images = mix_inputs(images, partners, ratio)
        return Inputs(images, batch.labels, batch.weight, batch.mixup, self.heads)

    def _view(self, batch: Batch, images: torch.Tensor, statistics: Statistics, purpose: str) -> torch.Tensor:
        draws = uniform(make_key(self.seed, purpose, batch.epoch), batch.ids, DRAWS)
        on_device = to_device(torch.from_numpy(draws), images.device)
        return normalise(augment(images, on_device, self.augmentation), statistics.mean, statistics.std)
