"""Copies of batches to the device, and how long the device took over them, without ever waiting for it."""

from __future__ import annotations

import torch


class Copies:
    """Copies tensors to one device, in the order of its work."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._borders: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors on the device; what is read of host memory has to stay until the copies are done."""
        if self._device.type != "cuda":
            return [tensor.to(self._device) for tensor in tensors]
        held = [one if one.is_cuda or one.is_pinned() else one.pin_memory() for one in tensors]
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()  # nothing but the copies lies between, so that an idle device does not count
        copied = [one.to(self._device, non_blocking=True) for one in held]
        end.record()
        self._borders.append((begin, end))
        return copied

    def take_seconds(self) -> float:
        """Return the device's time over all copies since the last call, which must be done by now; 0 on a CPU."""
        borders, self._borders = self._borders, []
        return float(sum(begin.elapsed_time(end) for begin, end in borders)) / 1000
