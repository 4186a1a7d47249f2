"""Window: the steps between two records, measured. The device is asked for numbers only when the window closes."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import torch

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
    grad_norm: float  #: of the last step


class Window:
    """Collects steps from its making to `close`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._losses: list[torch.Tensor] = []
        self._grad_norm = torch.zeros(())
        self._steps = self._images = 0
        self._waited = 0.0
        self._start = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Count time in which the next batch was not there."""
        self._waited += seconds

    def add(self, updated: Updated, images: int) -> None:
        """Count one update over ``images`` images of all ranks."""
        self._losses.append(updated.losses)
        self._grad_norm = updated.stepped.norm
        self._steps += 1
        self._images += images

    def close(self) -> Measured:
        """Sum over ranks and wait for the device; losses that are not finite stay out of the means."""
        losses = torch.stack(self._losses).double()  # [steps, 4]
        finite = losses.isfinite().all(1, keepdim=True)
        ssl, ssl_count, sl, sl_count = self._world.sum(losses.where(finite, 0).sum(0)).tolist()
        norm = float(self._grad_norm)
        seconds = time.perf_counter() - self._start
        return Measured(
            loss_ssl=ssl / ssl_count if ssl_count else None,
            loss_sl=sl / sl_count if sl_count else None,
            steps=self._steps,
            images=self._images,
            seconds=seconds,
            data_wait=self._waited / seconds,
            grad_norm=norm,
        )


def peak_memory_mb(device: torch.device) -> float:
    """Return peak memory in MiB: allocated on a GPU, resident in this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
