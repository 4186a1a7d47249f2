"""NVIDIA DALI on CPUs: its file reader, decoder and operators in its own threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy

from benchmarks.peers.work import BATCH, MEAN, SCALE, SIZE, STD, Batches, Task


def batches(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """A pipeline without a GPU, ``workers`` threads; files are shuffled within its buffer."""
    pipeline = _pipeline(source, task, batch_size=BATCH, num_threads=workers, device_id=None)
    loader = DALIClassificationIterator(
        pipeline, reader_name="files", auto_reset=True, last_batch_policy=LastBatchPolicy.PARTIAL
    )
    for _ in range(epochs):
        for (batch,) in loader:
            yield batch["data"], batch["label"].squeeze(1)


@pipeline_def
def _pipeline(source: Path, task: Task) -> tuple[Any, Any]:
    contents, labels = fn.readers.file(file_root=str(source), random_shuffle=True, name="files")
    if task == "decode":
        return fn.decoders.image(contents, output_type=types.RGB), labels
    crops = fn.decoders.image_random_crop(contents, output_type=types.RGB, random_area=SCALE)
    resized = fn.resize(crops, size=(SIZE, SIZE), interp_type=types.INTERP_CUBIC, antialias=True)
    normalised = fn.crop_mirror_normalize(
        resized,
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in MEAN],
        std=[255 * value for value in STD],
        mirror=fn.random.coin_flip(),
    )
    return normalised, labels
