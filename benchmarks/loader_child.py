"""One measurement in a process of its own: a loader at a task on given cores; its result is the last line of stdout.

`python -m benchmarks.loader_child JOB`, with a `Job` as JSON. The process and all that it starts stay on the cores of
the job. After a warm-up of one epoch, epochs are timed from batch to batch; short ones are taken together, so that a
time is never below `SHORTEST_S`. Beside each time stands how busy *others* kept the cores meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.loader_rows import resolve

SHORTEST_S = 0.5
ENDLESS = 1_000_000  # epochs; the measurement ends first


@dataclass(frozen=True)
class Job:
    """What a child is to measure."""

    way: str
    source: str
    task: str
    dtype: str  #: of the images in a batch
    cores: list[int]
    images: int  #: in an epoch
    seconds: float  #: measuring ends after the first epoch that ends later than this


@dataclass(frozen=True)
class Measured:
    """What a child has measured."""

    images_per_s: list[float]  #: of each measured stretch of one or more epochs
    others: list[float]  #: share of the cores' time that went to other processes meanwhile
    peak_rss_mb: float  #: of the process and its workers together


def main() -> None:
    """Measure and print."""
    job = Job(**json.loads(sys.argv[1]))
    os.sched_setaffinity(0, job.cores)
    print(json.dumps(asdict(measure(job))), flush=True)


def measure(job: Job) -> Measured:
    """Run the loader until enough is measured."""
    speeds, others = [], []
    batches = resolve(job.way)(Path(job.source), job.task, len(job.cores), ENDLESS)
    seen, epochs, begun, clock = 0, 0, 0.0, processes.Clock(job.cores)
    for images, labels in batches:
        if seen == 0:
            _check(job, images, labels)
        seen += len(labels)
        if seen < job.images * (epochs + 1):
            continue
        now = time.perf_counter()
        if epochs == 0:
            begun, last, last_seen, epochs = now, now, seen, 1
            clock.restart()
        elif now - last >= SHORTEST_S:
            speeds.append((seen - last_seen) / (now - last))
            others.append(clock.restart())
            last, last_seen = now, seen
            if now - begun >= job.seconds:
                break
        epochs = seen // job.images
    peak = processes.peak_rss_mb()
    batches.close()
    return Measured(speeds, others, peak)


def _check(job: Job, images: object, labels: object) -> None:
    """Hold the loader to the task: a speed of something else is worth nothing."""
    import torch

    from benchmarks.peers.work import BATCH, SIZE

    assert isinstance(images, torch.Tensor), type(images)
    expected = getattr(torch, job.dtype)
    shapes = [(len(labels), 3, SIZE, SIZE), (len(labels), SIZE, SIZE, 3)]  # type: ignore[arg-type]
    if images.dtype != expected or tuple(images.shape) not in shapes or not 0 < len(images) <= BATCH:
        raise SystemExit(f"the first batch is {images.dtype} {tuple(images.shape)}, the task wants {expected} {shapes}")


if __name__ == "__main__":
    main()
