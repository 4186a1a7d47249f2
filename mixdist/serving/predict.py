"""Items -> logits, in order: decoded by threads ahead of the model, each that cannot be read told and passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from mixdist.data.images import in_flight
from mixdist.errors import DataError
from mixdist.serving.items import Item, Pixels
from mixdist.serving.served import Served


class Answer(NamedTuple):
    """What the model makes of an item."""

    item: Item
    logits: torch.Tensor | None  #: float32 [classes], the mean over the frames of a clip; None where it cannot be read
    error: str | None  #: why


_Pending = list[tuple[Item, "Future[Pixels]"]]


def predict(served: Served, items: Iterable[Item], batch: int, threads: int) -> Iterator[Answer]:
    """Answer items in their order.

    Args:
        served: the model.
        items: may be endless: two batches of them are held.
        batch: items of one forward.
        threads: that read and decode.
    """
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        chunks = iter(lambda: list(islice(source, batch)), [])
        asked = ([(item, pool.submit(item.read)) for item in chunk] for chunk in chunks)
        with closing(in_flight(asked, 1, _drop)) as flight:
            for pending in flight:
                yield from _answers(served, pending)


def _answers(served: Served, pending: _Pending) -> list[Answer]:
    found: list[Pixels] = []
    errors: dict[int, str] = {}
    for row, (_, future) in enumerate(pending):
        try:
            found.append(future.result())
        except (OSError, ValueError, DataError) as error:
            errors[row] = " ".join(str(error).split()) or type(error).__name__
    logits = iter(_logits(served, found))
    return [
        Answer(item, None, errors[row]) if row in errors else Answer(item, next(logits), None)
        for row, (item, _) in enumerate(pending)
    ]


def _logits(served: Served, found: list[Pixels]) -> list[torch.Tensor]:
    """Return the mean logits over the frames of each."""
    if not found:
        return []
    logits = served(torch.from_numpy(np.concatenate(found)))
    return [frames.mean(0) for frames in torch.split(logits, [len(pixels) for pixels in found])]


def _drop(pending: _Pending) -> None:
    for _, future in pending:
        future.cancel()
