"""turboloader: one tar of JPEGs, read by the C++ threads of its DataLoader; crops resized bilinearly, not bicubic."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
import turboloader

from benchmarks.peers.work import BATCH, SIZE, Batches, Task, packed_samples


def prepare(packed: Path, out: Path) -> None:
    """Write the tar, and the labels beside it: its batches name samples by their place in the tar."""
    labels = []
    with tarfile.open(out / "set.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for content, label in packed_samples(packed):
            member = tarfile.TarInfo(f"{len(labels):08d}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            labels.append(label)
    np.save(out / "labels.npy", labels)


def batches(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """Its fast path: images of one size, decoded, cropped and normalised in one pass; float32 in either task."""
    augment = task == "augment"
    loader = turboloader.DataLoader(
        str(source / "set.tar"),
        batch_size=BATCH,
        num_workers=workers,
        shuffle=True,
        image_size=SIZE,
        output_format="pytorch",
        transform=turboloader.ImageNetNormalize() if augment else None,
        train_aug=augment,
    )
    labels = torch.from_numpy(np.load(source / "labels.npy"))
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for images, found in loader:
            yield torch.from_numpy(images), labels[found["indices"]]
