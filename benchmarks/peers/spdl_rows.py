"""SPDL: files read and decoded in the threads of its pipeline, a batch a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import spdl.io
import torch
from spdl.pipeline import PipelineBuilder

from benchmarks.peers.work import BATCH, SIZE, Batches, Task, documented, fast_batch, fast_sample

AHEAD = 3  # finished batches that wait to be taken

Files = list[tuple[str, int]]  # path and label


def default(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """As its example of image loading shows: decoded by FFmpeg; torchvision's transforms on each sample."""
    try:
        spdl.io.cpu_storage(1)
    except RuntimeError as error:  # said here once, and not of every file
        raise SystemExit("SPDL finds none of FFmpeg's libraries (apt-get install ffmpeg)") from error
    yield from _run(source, partial(_documented, task=task), workers, epochs)


def fast(source: Path, task: Task, workers: int, epochs: int) -> Batches:
    """The same pipeline with simplejpeg, crops in uint8 and one normalisation a batch."""
    yield from _run(source, partial(_fast, task=task), workers, epochs)


def _documented(files: Files, task: Task) -> torch.Tensor:
    decoded = spdl.io.load_image_batch([path for path, _ in files], width=SIZE, height=SIZE, pix_fmt="rgb24")
    images = spdl.io.to_torch(decoded)
    if task == "decode":
        return images
    change = documented(task)
    return torch.stack([change(image) for image in images.permute(0, 3, 1, 2)])


def _fast(files: Files, task: Task) -> torch.Tensor:
    return fast_batch(torch.stack([fast_sample(Path(path).read_bytes(), task) for path, _ in files]), task)


def _run(source: Path, load: Callable[[Files], torch.Tensor], workers: int, epochs: int) -> Batches:
    def batch(files: Files) -> tuple[torch.Tensor, torch.Tensor]:
        return load(files), torch.tensor([label for _, label in files])

    builder = PipelineBuilder().add_source(_shuffled(source, epochs)).pipe(batch, concurrency=workers)
    pipeline = builder.add_sink(AHEAD).build(num_threads=workers, max_failures=0)  # it leaves out what fails otherwise
    with pipeline.auto_stop():
        yield from pipeline


def _shuffled(source: Path, epochs: int) -> Iterator[Files]:
    files = [(str(path), int(path.parent.name)) for path in sorted(source.glob("*/*.jpg"))]
    random = np.random.default_rng(0)
    for _ in range(epochs):
        order = random.permutation(len(files)).tolist()
        for start in range(0, len(files), BATCH):
            yield [files[row] for row in order[start : start + BATCH]]
