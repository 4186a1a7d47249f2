"""Answers with known labels -> top-1, top-5 and the confusion matrix, in integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mixdist.engine.evaluate import Score
from mixdist.errors import DataError
from mixdist.serving.predict import Answer


@dataclass(frozen=True)
class Scored:
    """What came of an evaluation."""

    score: Score
    confusion: npt.NDArray[np.int64]  #: [classes, classes]: items by true class (row) and most likely class (column)
    unread: tuple[str, ...]  #: items that could not be read, and why

    def as_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        return {
            "samples": self.score.samples,
            "accuracy": self.score.accuracy,
            "top5": self.score.top5_accuracy,
            "classes": list(classes),
            "confusion": self.confusion.tolist(),
            "unread": list(self.unread),
        }


def score(answers: Iterable[Answer], classes: tuple[str, ...]) -> Scored:
    """Count answers whose items all have a label that the model knows; one that cannot be read is not counted.

    Raises:
        DataError: none can be read.
    """
    number = {name: row for row, name in enumerate(classes)}
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    among_five = 0
    unread: list[str] = []
    for answer in answers:
        if answer.logits is None:
            unread.append(f"{answer.item.name}: {answer.error}")
            continue
        label = number[str(answer.item.label)]
        best = answer.logits.topk(min(5, len(classes))).indices.tolist()
        confusion[label, best[0]] += 1
        among_five += label in best
    samples = int(confusion.sum())
    if samples == 0:
        raise DataError(
            f"none of the {len(unread)} samples can be read, so there is nothing to evaluate on ({unread[0]})"
        )
    top5 = among_five if len(classes) > 5 else None
    return Scored(Score(samples, int(confusion.trace()), top5), confusion, tuple(unread))
