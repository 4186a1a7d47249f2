"""Window: the steps between two records, measured. The device is asked for numbers only when the window closes."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass

import torch

from mixdist.engine.update import StepSums
from mixdist.errors import MixdistError
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
    grad_norm: float


class Window:
    """Collects steps from its making to `close`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sums = torch.zeros(4, dtype=torch.float64, device=world.device)
        self._steps = self._images = 0
        self._waited = 0.0
        self._start = time.perf_counter()

    def waited(self, seconds: float) -> None:
        """Count time in which the next batch was not there."""
        self._waited += seconds

    def add(self, sums: StepSums, images: int) -> None:
        """Count one update over ``images`` images of all ranks."""
        self._sums += sums.losses
        self._grad_norm = sums.grad_norm
        self._steps += 1
        self._images += images

    def close(self, skipping: bool) -> Measured:
        """Sum over ranks and wait for the device.

        Args:
            skipping: whether an update is left out where its gradient is not finite, as under fp16.

        Raises:
            MixdistError: a loss that is not finite, or a gradient that went into the weights, on all ranks alike.
        """
        ssl, ssl_count, sl, sl_count = self._world.sum(self._sums).tolist()
        norm = float("nan") if self._grad_norm is None else float(self._grad_norm)
        seconds = time.perf_counter() - self._start
        if not torch.isfinite(self._sums).all() or not (skipping or math.isfinite(norm)):
            raise MixdistError(
                f"the loss or its gradient is no longer finite (ssl {ssl / max(ssl_count, 1)}, "
                f"sl {sl / max(sl_count, 1)}, gradient norm {norm}); "
                f"lower optim.*.base_lr, set optim.clip_grad, or use train.precision fp32"
            ).everywhere()
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
