"""Ema: the exponential moving average of the weights, and of BatchNorm's running statistics, over the updates made.

Everything stays on the device: an update that was left out does not move the average, and no step waits to learn so.
The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, else the random weights of the start would stand
in the average for the first 1 / (1 - decay) of them. Running statistics are averaged along, as they belong to the
weights of the same moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mixdist.engine.batchnorm import buffers_of_ranks
from mixdist.model.mixmodel import MixModel
from mixdist.world import World


class Ema:
    """The averages of one model, which start as the model is."""

    def __init__(self, model: MixModel, decay: float, world: World) -> None:
        self._model, self._decay, self._world = model, decay, world
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._live = [tensor.data for tensor in (*model.parameters(), *buffers)]  # the same memory, moved by training
        self._weights = self._live[: -len(buffers) or None]
        self._buffers = self._live[len(self._weights) :]
        self._average = [weight.clone() for weight in self._weights]
        self._flat = torch.cat([buffer.flatten() for buffer in self._buffers]) if buffers else torch.empty(0)
        pieces = torch.split(self._flat, [buffer.numel() for buffer in self._buffers]) if buffers else []
        views = [piece.view_as(buffer) for piece, buffer in zip(pieces, self._buffers, strict=True)]
        self._averages = [*self._average, *views]
        self._updates = torch.zeros((), device=world.device)  # that were made

    @torch.no_grad()
    def update(self, applied: torch.Tensor) -> None:
        """Follow one update of the model.

        Args:
            applied: 0-dim, 1.0; or 0.0 for an update that was left out.
        """
        self._updates += applied
        decay = ((1 + self._updates) / (10 + self._updates)).clamp(max=self._decay)
        rate = (1 - decay) * applied
        moved = torch._foreach_sub(self._weights, self._average)
        torch._foreach_mul_(moved, rate)
        torch._foreach_add_(self._average, moved)
        if self._buffers:
            statistics = (torch.cat([buffer.flatten() for buffer in self._buffers]) - self._flat) * rate
            # Those of a batch that is not finite are put back only after this, and 0 times infinity is no number.
            self._flat += statistics.nan_to_num_(0.0, 0.0, 0.0)

    def publish(self) -> None:
        """Average running statistics that are each rank's own, as `Strategy.publish` does; on all ranks together."""
        if self._world.size > 1 and buffers_of_ranks(self._model):
            self._world.sum(self._flat).div_(self._world.size)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have its averages as weights and running statistics, for the length of the block."""
        self._give(self._averages)
        try:
            yield
        finally:
            self._give(self._live)

    def _give(self, tensors: list[torch.Tensor]) -> None:
        buffers = (buffer for buffer in self._model.buffers() if buffer.is_floating_point())
        for own, tensor in zip((*self._model.parameters(), *buffers), tensors, strict=True):
            own.data = tensor

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the averages by the names of the model's own state, which they can take the place of."""
        with self.in_place():
            return self._model.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor], updates: int) -> None:
        """Take up averages of ``updates`` updates."""
        with self.in_place():
            self._model.load_state_dict(state)
        self._updates.fill_(updates)
