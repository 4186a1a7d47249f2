"""Top-1 and top-5 on exactly the test split: integer counts, summed over ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mixdist.data.stream import TestStream
from mixdist.engine.precision import Precision
from mixdist.engine.turns import Asked, nobody, turns
from mixdist.errors import DataError
from mixdist.model.mixmodel import MixModel

MOST_CONFUSED = 1000  # classes up to which a confusion matrix is counted: 8 MB


@dataclass(frozen=True)
class Score:
    """What an evaluation found, the same on every rank."""

    samples: int
    top1: int  #: samples whose label has the highest logit
    top5: int | None  #: samples whose label is among the five highest; None for fewer than 6 classes
    #: [label][class with the highest logit] -> samples; None where it was not asked for, or beyond ``MOST_CONFUSED``
    confusion: list[list[int]] | None = None

    @property
    def accuracy(self) -> float:
        """Top-1 in percent."""
        return 100 * self.top1 / self.samples

    @property
    def top5_accuracy(self) -> float | None:
        """Top-5 in percent."""
        return None if self.top5 is None else 100 * self.top5 / self.samples


@torch.no_grad()
def evaluate(
    model: MixModel, test: TestStream, precision: Precision, confusion: bool = False, asked: Asked = nobody
) -> Score:
    """Evaluate every sample of the test split once, over all ranks; one that cannot be read is not counted.

    The model is the same on all of them (`Strategy.publish`).

    Raises:
        DataError: no sample can be read.
        LeftOff: on all ranks, where one was asked to stop.
    """
    model.eval()
    counts = torch.zeros(3, dtype=torch.int64, device=test.world.device)
    whole = model.classifier.out_features
    first, last = test.head or (0, whole)
    classes = last - first
    confused = torch.zeros(classes**2 if confusion and classes <= MOST_CONFUSED else 0, dtype=torch.int64)
    confused = confused.to(test.world.device)
    for batch in turns(test, asked):
        inputs = test.prepare(batch)
        with precision.autocast():
            logits = model(inputs.images, reconstruct=False, classify=True).logits
        logits = logits.float().reshape(len(inputs.labels), -1, whole).mean(1)  # over the frames of a clip
        logits = logits[:, first:last]
        best = logits.topk(min(5, classes), dim=1).indices  # [B, 5], best first
        readable = inputs.weight > 0
        hits = (best == inputs.labels[:, None]) & readable[:, None]
        counts += torch.stack([hits[:, 0].sum(), hits.sum(), readable.sum()])
        if len(confused):
            pairs = (inputs.labels * classes + best[:, 0])[readable]
            confused += torch.bincount(pairs, minlength=len(confused))
    model.train()
    top1, top5, samples = (int(count) for count in test.world.sum(counts))
    if samples == 0:
        raise DataError("none of the test samples can be read, so there is nothing to evaluate on").everywhere()
    matrix = test.world.sum(confused).reshape(classes, classes).tolist() if len(confused) else None
    return Score(samples, top1, top5 if classes > 5 else None, matrix)
