"""Strategy: how a phase's model, and the optimiser that moves it, are spread over the ranks. Applied from outside."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mixdist.engine.batchnorm import buffers_of_ranks
from mixdist.engine.compiling import compiled
from mixdist.engine.optim import Optimiser, State, step_if_finite, total_norm
from mixdist.engine.precision import Precision
from mixdist.model.mixmodel import MixModel
from mixdist.world import World


@dataclass(frozen=True)
class Stepped:
    """What became of an update, as scalars on the device that are equal on all ranks; nothing waits for them."""

    norm: torch.Tensor  #: L2 norm of the global gradient, before clipping
    applied: torch.Tensor  #: 1.0, or 0.0 where the gradient was not finite: then nothing moved on any rank


class Strategy(Protocol):
    """One phase of training. The MixModel it is made from stays whole: evaluation, pictures, checkpoints and the next
    phase use that one, and know of no layout.
    """

    module: nn.Module  #: what forwards of training go through; returns mixdist.model.mixmodel.Outputs
    optimiser: Optimiser  #: sets the learning rates

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Return the context of a micro-batch's forward and backward; gradients cross ranks in a step's last only."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of this part of the loss; the parts of all ranks and micro-batches add up to the loss."""
        ...

    def step(self) -> Stepped:
        """Clip the gradient, move the parameters unless it is not finite, and clear it."""
        ...

    def mirror(self) -> None:
        """Give the whole MixModel this rank's weights and running statistics as they are; all ranks call it together.

        For what follows every update, as an average of the weights does.
        """
        ...

    def publish(self) -> None:
        """Bring the whole MixModel up to date, the same on all ranks; all ranks call it together."""
        ...

    def moments(self) -> State:
        """Return AdamW's state by parameter name, whole on every rank; all ranks call it together."""
        ...

    def load_moments(self, state: State) -> None:
        """Take up the moments of those parameters that ``state`` knows; the others start afresh."""
        ...

    def close(self) -> None:
        """Let go of what holds on to the model: its phase is over."""
        ...


@dataclass(frozen=True)
class Spread:
    """What a strategy is made from at the start of a phase, whose trained parameters alone require gradients."""

    model: MixModel
    optimiser: Callable[[MixModel], Optimiser]  #: builds it, with fresh moments, over the model or a copy
    scaler: torch.amp.GradScaler
    precision: Precision
    clip_grad: float | None
    batch: int  #: global
    micro_batch: int | None  #: most rows of one forward on one rank, None for no limit
    world: World
    compile: bool = False

    @property
    def rows(self) -> int:
        """Most rows of one forward on one rank."""
        share = math.ceil(self.batch / self.world.size)
        return min(self.micro_batch or share, share)

    @property
    def accumulation(self) -> int:
        """Most micro-batches of one step, the same on every rank."""
        return math.ceil(math.ceil(self.batch / self.world.size) / self.rows)


class Replicas:
    """The whole model on every rank: on one device, or under DistributedDataParallel on several.

    Wrapped anew at each phase: parameters that the phase does not train are frozen by then, so DDP's search for
    unused parameters, which costs every step and is unsafe together with skipped synchronisation, stays off.
    """

    def __init__(self, spread: Spread) -> None:
        model, world = spread.model, spread.world
        self.module: nn.Module = compiled(model) if spread.compile else model
        self.optimiser = spread.optimiser(model)
        self._model, self._scaler, self._clip_grad, self._world = model, spread.scaler, spread.clip_grad, world
        self._ddp = None
        if world.size > 1:
            gpu = [world.device.index] if world.device.type == "cuda" else None
            self._ddp = self.module = DistributedDataParallel(self.module, device_ids=gpu, gradient_as_bucket_view=True)
            # Buffers are averaged when the model is published, not sent around before each forward. Set here, as the
            # constructor's name for it is not the same in all torch.
            self._ddp.broadcast_buffers = False

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Hold DDP's all-reduce back until a step's last micro-batch."""
        if last or self._ddp is None:
            return nullcontext()
        held_back: AbstractContextManager[None] = self._ddp.no_sync()
        return held_back

    def backward(self, loss: torch.Tensor) -> None:
        """Scale for fp16, and by the number of ranks, which DDP divides the sum over ranks by."""
        whole = loss * self._world.size if self._ddp else loss
        torch.autograd.backward(self._scaler.scale(whole))

    def step(self) -> Stepped:
        """Clip, update and clear; neither fp16 nor the check of any other precision makes the host wait for a GPU."""
        adamw, parameters = self.optimiser.adamw, list(self.optimiser.names.values())
        self._scaler.unscale_(adamw)
        norm = total_norm(parameters)
        if self._clip_grad:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_grad, norm)
        applied = step_if_finite(adamw, norm)
        self._scaler.update()
        for parameter in parameters:
            parameter.grad = None
        return Stepped(norm, applied)

    def mirror(self) -> None:
        """Do nothing: it is the model that is trained."""

    def publish(self) -> None:
        """Average running statistics (BatchNorm) that are each rank's own: ranks evaluate and save one model."""
        average_buffers(self._model, self._world)

    def moments(self) -> State:
        """Return AdamW's own state: it is whole on every rank."""
        return self.optimiser.state()

    def load_moments(self, state: State) -> None:
        """Copy them to the device."""
        self.optimiser.load(state)

    def close(self) -> None:
        """Do nothing: DDP's hooks go with its last reference."""


def trained_parameters(model: MixModel, names: list[str]) -> None:
    """Make exactly the parameters ``names`` require gradients, and clear all gradients."""
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
        parameter.grad = None


def average_buffers(model: nn.Module, world: World) -> None:
    """Give all ranks the mean of running statistics that are each rank's own."""
    if world.size > 1:
        for buffer in buffers_of_ranks(model):
            world.sum(buffer).div_(world.size)
