"""What frozen features are worth: kNN, a linear probe, and how much they vary. Pure functions of features and labels.

The collapse alarm looks at two numbers. The *spread* is the share of the features' size that differs from image to
image, sqrt(Σ variance / (Σ variance + |mean|²)): near 0 all images look alike. The *rank* is the effective number of
directions in which they differ, the exponential of the entropy of the singular values of the centred features (Roy and
Vetterli 2007): near 1 they lie on a line. docs/probes.md has what the thresholds rest on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

NEIGHBOURS = 20  # and the temperature: Wu et al. 2018, as self-supervised learning has had it since
TEMPERATURE = 0.07
PENALTIES = tuple(10.0**exponent for exponent in range(-4, 2))  # of the ridge, a share of the images
LEAST_SPREAD = 0.05
LEAST_RANK = 2.0
CHUNK = 1024  # test images whose similarities to all training images are held at a time


@dataclass(frozen=True)
class Findings:
    """What a probe found, the same on every rank."""

    knn: float  #: top-1 in percent of the test images
    linear: float  #: the same of the linear probe
    spread: float  #: 0 to 1
    rank: float  #: 1 to the width of the features

    @property
    def collapsed(self) -> bool:
        """Whether the features have collapsed, or are no numbers any more."""
        return not (self.spread >= LEAST_SPREAD and self.rank >= LEAST_RANK)


def probe(
    train: torch.Tensor, train_labels: torch.Tensor, test: torch.Tensor, test_labels: torch.Tensor, classes: int
) -> Findings:
    """Judge features.

    Args:
        train: float [N, D]; no training image at all makes nothing of it, so N is at least 1.
        train_labels: int64 [N].
        test: float [M, D].
        test_labels: int64 [M].
        classes: how many there are.
    """
    spread, rank = spread_and_rank(test)
    if not math.isfinite(spread):
        return Findings(math.nan, math.nan, math.nan, math.nan)
    by_neighbours = knn(train, train_labels, test, classes)
    by_line = linear(train, train_labels, test, classes)
    return Findings(_percent(by_neighbours, test_labels), _percent(by_line, test_labels), spread, rank)


def knn(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the class [M] that the nearest training images by cosine vote for, each by exp(cosine / temperature)."""
    units = F.normalize(train.float(), dim=1)
    found = []
    for chunk in torch.split(F.normalize(test.float(), dim=1), CHUNK):
        near = (chunk @ units.T).topk(min(NEIGHBOURS, len(units)), dim=1)
        votes = torch.zeros(len(chunk), classes, device=chunk.device)
        # Relative to the nearest: exp(1 / 0.07) of each would be as good, but larger than it has to be.
        weight = ((near.values - near.values[:, :1]) / TEMPERATURE).exp()
        found.append(votes.scatter_add_(1, labels[near.indices], weight).argmax(1))
    return torch.cat(found)


def linear(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the class [M] of a ridge regression on one-hot targets.

    Features are standardised. Of the penalties, the one with the least squared leave-one-out error is taken, which has
    a closed form: no part of the training images has to be held back.
    """
    mean, std = train.double().mean(0), train.double().std(0, unbiased=False)
    scale = torch.where(std > 0, 1 / std.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    x, targets = (train - mean) * scale, F.one_hot(labels, classes).double()
    centre = targets.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x)
    turned = x @ vectors  # [N, D]
    cross = turned.T @ (targets - centre)
    best, weights = math.inf, cross
    for penalty in PENALTIES:
        shrunk = 1 / (values.clamp(min=0) + penalty * len(x))  # [D]
        own = (turned.square() @ shrunk + 1 / len(x)).clamp(max=1 - 1e-9)  # an image's weight in its own prediction
        wrong = (targets - centre - turned @ (shrunk[:, None] * cross)) / (1 - own)[:, None]
        if (error := float(wrong.square().sum())) < best:
            best, weights = error, vectors @ (shrunk[:, None] * cross)
    scores: torch.Tensor = ((test - mean) * scale) @ weights + centre
    return scores.argmax(1)


def spread_and_rank(features: torch.Tensor) -> tuple[float, float]:
    """Return spread and effective rank of features [M, D]; a rank of 1 where they do not differ at all."""
    mean = features.double().mean(0)
    centred = features.double() - mean
    variance = centred.square().mean(0).sum()
    spread = float((variance / (variance + mean.square().sum()).clamp(min=torch.finfo(torch.float64).tiny)).sqrt())
    if not math.isfinite(spread) or float(variance) == 0:
        return spread, 1.0
    singular = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0).sqrt()
    share = singular / singular.sum()
    return spread, float(torch.exp(-torch.special.xlogy(share, share).sum()))


def _percent(found: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * int((found == labels).sum()) / len(labels)
