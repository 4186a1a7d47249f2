"""The row of mixdist itself in benchmarks.loader: the stream and the preparation that training runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from mixdist.config.schema import Config
from mixdist.data.open import open_feed
from mixdist.data.samples import find_samples
from mixdist.world import World

BATCH = 256
ALONE = World.alone(torch.device("cpu"))


def batches(packed: Path, task: str, workers: int, epochs: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (images, labels) of all samples, shuffled anew each epoch.

    ``task`` is "decode" (uint8 [B, 64, 64, 3]), "cached" (the same, of the set decoded once into RAM) or "augment"
    (float32 [B, 3, 64, 64]: resized crop, flip, normalised).
    """
    data = {
        "sl": packed,
        "augment": "resized-crop-flip",
        "workers": workers if workers > 1 else 0,  # on one core, in this process: as the others' num_workers=0
        "cache": "ram" if task == "cached" else "none",
    }
    only_ssl = {"arm": "ssl+sl", "ssl_epochs": 1, "sl_epochs": 0}  # a stream over all samples, and no test split
    config = Config.model_validate({"data": data, "method": only_ssl, "train": {"batch": BATCH}})
    samples = find_samples(config)
    stream = open_feed(config, samples, ALONE).train["ssl"]
    for epoch in range(epochs):
        for (batch,) in stream.epoch(epoch, -(-len(samples.ssl_ids) // BATCH)):
            yield (stream.prepare(batch).images if task == "augment" else batch.images), batch.labels
