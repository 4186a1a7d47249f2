"""The row of mixdist itself in benchmarks.loader: batches of a packed set by the code that training runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mixdist.data.augment import DRAWS, augment, normalise
from mixdist.data.batch import Statistics
from mixdist.data.images import Images, ResidentImages, StreamedImages
from mixdist.data.index import open_set
from mixdist.data.order import Order
from mixdist.keyed import make_key, uniform

BATCH = 256
SIZE = 64


def batches(packed: Path, task: str, workers: int, epochs: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images, labels) of all samples, shuffled anew each epoch.

    ``task`` is "decode" (uint8 [B, 64, 64, 3]), "cached" (the same, of the set decoded once into RAM) or "augment"
    (float32 [B, 3, 64, 64]: resized crop, flip, normalised).
    """
    opened = open_set(packed)
    split = opened.split("train")
    ids, labels = np.arange(len(split.index)), torch.from_numpy(split.labels.astype(np.int64))
    images: Images = StreamedImages(split, SIZE, workers)
    if task == "cached":
        images = ResidentImages(images, ids, len(ids), torch.device("cpu"))
    statistics = Statistics.of(opened.mean, opened.std, torch.device("cpu"))
    order = Order(ids, BATCH, seed=0, purpose="sl")
    for epoch in range(epochs):
        shuffled = order.epoch(epoch)
        for step in range(-(-len(ids) // BATCH)):
            (rows,) = order.share(shuffled, step, rank=0, world_size=1, micro_batch=None)
            batch = images(rows.ids)
            if task == "augment":
                draws = torch.from_numpy(uniform(make_key(0, "augment", epoch), rows.ids, DRAWS))
                batch = normalise(augment(batch, draws, "resized-crop-flip"), statistics.mean, statistics.std)
            yield batch, labels[rows.ids]
