"""Copies to the device, and how long it took over those of batches, without ever waiting for it."""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on the device; the host goes on before the copy to a GPU is done.

    Pinned on the way: a copy from memory that is not would make the host wait for all that the GPU has to do.
    """
    return tensor.to(device) if device.type != "cuda" else _pinned(tensor).to(device, non_blocking=True)


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()


class Copies:
    """Copies tensors to one device, in the order of its work."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._borders: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors on the device; what is read of host memory has to stay until the copies are done."""
        if self._device.type != "cuda":
            return [tensor.to(self._device) for tensor in tensors]
        held = [_pinned(one) for one in tensors]
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
