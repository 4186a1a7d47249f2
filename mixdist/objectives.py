"""ℓ_ssl, ℓ_sl and their α-weighted sum (Eq. 3), each as a sum over images.

The engine adds the numbers of images over micro-batches and ranks, known on the host (`Batch.counts`), and divides by
those, so that a gradient is that of the mean over the global batch however it was cut; a mean of means would not be.
An image of weight 0 adds nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mixdist.data.mixing import Mixup

Count = torch.Tensor | float  # a number of images: 0-dim on a GPU, where nothing waits for it; the host's on a CPU


def reconstruction_loss(
    reconstruction: torch.Tensor, images: torch.Tensor, where: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Return ℓ_ssl summed over images, float32 0-dim: of each the mean squared error over the pixels that count.

    Args:
        reconstruction: [B, 3, S, S], any float type; computed in float32.
        images: [B, 3, S, S], normalised.
        where: bool [B, 1, S, S]; at least one pixel of each image.
        weight: float32 [B], 1 or 0.
    """
    # What a pixel's error counts needs no gradient. Worked out apart, it halves the operations of the graph.
    values = images.shape[1] * where.sum((1, 2, 3))
    share = where * (weight / values)[:, None, None, None]
    return (F.mse_loss(reconstruction.float(), images, reduction="none") * share).sum()


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    mixup: Mixup | None = None,
    heads: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ℓ_sl summed over the labelled images, float32 0-dim: of each the cross-entropy.

    Args:
        logits: [B, classes], any float type; computed in float32.
        labels: int64 [B], -1 where unlabelled.
        weight: float32 [B], 1 or 0.
        mixup: the second target of each image, and the share of the first.
        heads: int64 [classes], the head that each logit is of; an image's loss is over the logits of its label's head.
    """
    logits = logits.float()
    if heads is not None:
        logits = logits.masked_fill(heads[None] != heads[labels.clamp(min=0)][:, None], -torch.inf)
    per_image = F.cross_entropy(logits, labels, reduction="none", ignore_index=-1)
    if mixup:
        other = F.cross_entropy(logits, mixup.labels.where(labels >= 0, -1), reduction="none", ignore_index=-1)
        per_image = mixup.share * per_image + (1 - mixup.share) * other
    return per_image.dot(weight)


def joint_loss(
    ssl: torch.Tensor | None, sl: torch.Tensor | None, alpha: float, images: Count, labelled: Count
) -> torch.Tensor:
    """Return this micro-batch's part of α·ℓ_ssl + (1 − α)·ℓ_sl (Eq. 3).

    The parts of all micro-batches and ranks add up to the loss of the global batch.

    Args:
        ssl: summed over the micro-batch, None for a head that did not run.
        sl: likewise.
        alpha: α.
        images: images of the global batch, over which ℓ_ssl is the mean.
        labelled: those of them that have a label, over which ℓ_sl is.
    """
    parts = []
    if ssl is not None:
        parts.append(ssl * (alpha / _at_least_one(images)))
    if sl is not None:
        parts.append(sl * ((1 - alpha) / _at_least_one(labelled)))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _at_least_one(count: Count) -> Count:
    return count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1.0)
