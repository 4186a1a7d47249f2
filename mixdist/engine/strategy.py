"""Strategy: how a phase's model is spread over the ranks. Applied from outside, around what the phase trains."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mixdist.model.mixmodel import MixModel
from mixdist.world import World


class Strategy(Protocol):
    """One phase's view of the model."""

    module: nn.Module  #: what forwards go through; returns mixdist.model.mixmodel.Outputs
    gradient_scale: float  #: loss parts are multiplied by this before the backward, to undo what averages gradients

    def accumulate(self) -> AbstractContextManager[None]:
        """Return the context of every micro-batch of a step but the last: gradients stay on the rank."""
        ...


class SingleDevice:
    """A world of one."""

    gradient_scale = 1.0

    def __init__(self, model: MixModel) -> None:
        self.module: nn.Module = model

    def accumulate(self) -> AbstractContextManager[None]:
        """Nothing is shared, so nothing is held back."""
        return nullcontext()


class Ddp:
    """DistributedDataParallel, wrapped anew at each phase: parameters that the phase does not train are frozen by
    then, so the unused-parameter search, which costs every step and is unsafe together with skipped
    synchronisation, stays off.
    """

    def __init__(self, model: MixModel, world: World) -> None:
        gpu = [world.device.index] if world.device.type == "cuda" else None
        # Buffers are averaged before each evaluation (average_buffers), not sent around before each forward.
        ddp = DistributedDataParallel(model, device_ids=gpu, forward_sync_buffers=False, gradient_as_bucket_view=True)
        self.module: nn.Module = ddp
        self._no_sync = ddp.no_sync
        self.gradient_scale = float(world.size)  # DDP divides the sum over ranks by their number

    def accumulate(self) -> AbstractContextManager[None]:
        """Hold back the all-reduce."""
        context: AbstractContextManager[None] = self._no_sync()
        return context


def make_strategy(model: MixModel, world: World) -> Strategy:
    """Wrap the model for a phase whose trained parameters alone require gradients."""
    return SingleDevice(model) if world.size == 1 else Ddp(model, world)


def average_buffers(model: MixModel, world: World) -> None:
    """Give all ranks the mean of their running statistics (BatchNorm), so that they evaluate and save one model."""
    if world.size == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            world.sum(buffer).div_(world.size)


def trained_parameters(model: MixModel, names: list[str]) -> list[torch.nn.Parameter]:
    """Make exactly the parameters ``names`` require gradients, clear all gradients, and return those parameters."""
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        parameter.grad = None
    return [parameter for name, parameter in model.named_parameters() if name in chosen]
