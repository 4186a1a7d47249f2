"""ℓ_ssl, ℓ_sl and their α-weighted sum (Eq. 3), each as a sum over images and the number of images summed.

The engine adds counts over micro-batches and ranks before it divides, so that a gradient is that of the mean over
the global batch however it was cut; a mean of means would not be. An image of weight 0 adds to neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mixdist.data.mixing import Mixup


@dataclass(frozen=True)
class LossTerm:
    """A loss as it travels."""

    sum: torch.Tensor  #: float32 scalar, sum of the per-image losses
    count: torch.Tensor  #: float32 scalar, images summed


def reconstruction_loss(
    reconstruction: torch.Tensor, images: torch.Tensor, where: torch.Tensor, weight: torch.Tensor
) -> LossTerm:
    """ℓ_ssl: mean squared error over the pixels that count, an image at a time.

    Args:
        reconstruction: [B, 3, S, S], any float type; computed in float32.
        images: [B, 3, S, S], normalised.
        where: bool [B, 1, S, S]; at least one pixel of each image.
        weight: float32 [B], 1 or 0.
    """
    # What a pixel's error counts needs no gradient. Worked out apart, it halves the operations of the graph.
    values = images.shape[1] * where.sum((1, 2, 3))
    share = where * (weight / values)[:, None, None, None]
    return LossTerm(((reconstruction.float() - images).square() * share).sum(), weight.sum())


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    mixup: Mixup | None = None,
    heads: torch.Tensor | None = None,
) -> LossTerm:
    """ℓ_sl: cross-entropy over the labelled images.

    Args:
        logits: [B, classes], any float type; computed in float32.
        labels: int64 [B], -1 where unlabelled.
        weight: float32 [B], 1 or 0.
        mixup: the second target of each image, and the share of the first.
        heads: int64 [classes], the head that each logit is of; an image's loss is over the logits of its label's head.
    """
    weight = labelled_weight(labels, weight)
    if heads is not None:
        logits = logits.float().masked_fill(heads[None] != heads[labels.clamp(min=0)][:, None], -torch.inf)
    per_image = F.cross_entropy(logits.float(), labels.clamp(min=0), reduction="none")
    if mixup:
        other = F.cross_entropy(logits.float(), mixup.labels, reduction="none")
        per_image = mixup.share * per_image + (1 - mixup.share) * other
    return LossTerm((per_image * weight).sum(), weight.sum())


def labelled_weight(labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the weight of each image in ℓ_sl: float32 [B], 0 where unlabelled."""
    return weight * (labels >= 0)


def joint_loss(
    ssl: LossTerm | None, sl: LossTerm | None, alpha: float, ssl_count: torch.Tensor, sl_count: torch.Tensor
) -> torch.Tensor:
    """Return this micro-batch's part of α·ℓ_ssl + (1 − α)·ℓ_sl (Eq. 3), divided by the global batch's counts.

    The parts of all micro-batches and ranks add up to the loss of the global batch.
    """
    parts = []
    if ssl is not None:
        parts.append(ssl.sum * (alpha / ssl_count.clamp(min=1)))
    if sl is not None:
        parts.append(sl.sum * ((1 - alpha) / sl_count.clamp(min=1)))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
