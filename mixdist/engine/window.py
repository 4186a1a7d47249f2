"""Window: the steps between two records, measured. The device is asked for numbers only when the window closes."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch

from mixdist.data.stream import Stream
from mixdist.engine.update import Updated
from mixdist.world import World


@dataclass(frozen=True)
class Measured:
    """What a closed window holds, the same on every rank but for time and memory."""

    loss_ssl: float | None
    loss_sl: float | None
    steps: int
    images: int
    seconds: float
    data_wait: float  #: share of the seconds
    decode: float  #: share of the seconds that this rank's workers were busy, those of the busiest pool
    host_to_device: float  #: share of the seconds that the device copied batches
    grad_norm: float  #: of the last step
    left_out_s: float  #: seconds of measuring, which are not among the others
    cosines: tuple[float, float, float] | None  #: means over the steps that were measured (`alignment.PAIRS`)


class Window:
    """Collects steps from its making to `close`."""

    def __init__(self, world: World, stream: Stream) -> None:
        self._world, self._stream = world, stream
        self._busy_s = stream.busy_s
        self._losses: list[torch.Tensor] = []
        self._counts: list[tuple[float, float]] = []
        self._grad_norm = torch.zeros(())
        self._steps = self._images = 0
        self._waited = self._left_out = 0.0
        self._cosines: list[torch.Tensor] = []
        self._start = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Count time in which the next batch was not there."""
        self._waited += seconds

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Leave the time of the block out; the device has done what came before, and the block's own, by its ends."""
        wait_for(self._world.device)
        start = time.perf_counter()
        yield
        wait_for(self._world.device)
        self._left_out += time.perf_counter() - start

    def align(self, cosines: torch.Tensor) -> None:
        """Take the cosines [3] of one step."""
        self._cosines.append(cosines)

    def add(self, updated: Updated, images: int) -> None:
        """Count one update over ``images`` images of all ranks."""
        self._losses.append(updated.losses)
        self._counts.append(updated.counts)
        self._grad_norm = updated.stepped.norm
        self._steps += 1
        self._images += images

    def close(self) -> Measured:
        """Sum over ranks and wait for the device; losses that are not finite stay out of the means."""
        losses = torch.stack(self._losses).double()  # [steps, 2]
        finite = losses.isfinite().all(1, keepdim=True)
        both = torch.cat([losses, losses.new_tensor(self._counts)], 1)
        ssl, sl, ssl_count, sl_count = self._world.sum(both.where(finite, 0).sum(0)).tolist()
        norm = float(self._grad_norm)
        seconds = time.perf_counter() - self._start - self._left_out
        return Measured(
            loss_ssl=ssl / ssl_count if ssl_count else None,
            loss_sl=sl / sl_count if sl_count else None,
            steps=self._steps,
            images=self._images,
            seconds=seconds,
            data_wait=self._waited / seconds,
            decode=self._decoded(seconds),
            host_to_device=self._stream.copies.take_seconds() / seconds,  # which the device has done: it was waited for
            grad_norm=norm,
            left_out_s=self._left_out,
            cosines=self._mean_cosines(),
        )

    def _decoded(self, seconds: float) -> float:
        """Return the share of the seconds; workers may have begun on the first steps before the window was opened."""
        spent = (now - before for before, now in zip(self._busy_s, self._stream.busy_s, strict=True))
        return min(max(spent, default=0.0) / seconds, 1.0)

    def _mean_cosines(self) -> tuple[float, float, float] | None:
        """Return the means over the steps whose cosines are numbers; None without one."""
        known = [each for each in (cosines.tolist() for cosines in self._cosines) if all(map(math.isfinite, each))]
        if not known:
            return None
        first, second, third = (fmean(column) for column in zip(*known, strict=True))
        return first, second, third


def wait_for(device: torch.device) -> None:
    """Return when a GPU has done all that it was given; a CPU has by then."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mb(device: torch.device) -> float:
    """Return peak memory in MiB: allocated on a GPU, resident in this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
