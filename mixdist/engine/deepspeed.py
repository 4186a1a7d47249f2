"""DeepSpeed as a strategy: ZeRO 0 to 3, optimiser and parameters offloaded to the CPU where asked.

DeepSpeed rebuilds a module in place, and a phase ends long before the run does. So it drives a deep copy of the
phase's model, and `publish` brings the trained parameters back, whole, to the plain model that evaluation, pictures,
checkpoints and the next phase use. Partitions never leave this file.

What is DeepSpeed's here: partitions, communication, clipping and the update. What stays ours: when a step ends, the
learning rates, the arithmetic (autocast around the forward), and the moments by parameter name.
"""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixdist.engine.deepspeed_config import Asked, deepspeed_config
from mixdist.engine.optim import Optimiser, State, make_optimiser
from mixdist.engine.precision import Precision
from mixdist.errors import UserError
from mixdist.model.mixmodel import MixModel, Outputs
from mixdist.plan import Group, Phase
from mixdist.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")


def load_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for a device, quietly.

    Raises:
        UserError: it is not installed, or its import fails.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # else it would guess from what is installed
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        found = import_module("deepspeed")
    except ImportError as error:
        raise UserError(
            f"parallel.strategy deepspeed needs DeepSpeed, which cannot be imported ({error}); "
            f"pip install 'mixdist[deepspeed]', or use parallel.strategy ddp"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # which its import has set to INFO
    return found


class _Forward(nn.Module):
    """The copy under DeepSpeed: autocast lies inside, for DeepSpeed switches off one that it did not open itself."""

    def __init__(self, model: MixModel, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision = precision

    def forward(self, *arguments: Any, **keywords: Any) -> tuple[Tensor | None, ...]:
        """Return Outputs' fields as the tuple that DeepSpeed's hooks can look into."""
        with self._precision.autocast():
            outputs = self.model(*arguments, **keywords)
        return outputs.reconstruction, outputs.where, outputs.logits


class _Outputs(nn.Module):
    """What training's forwards go through: the engine, with Outputs as its result."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self._engine = (engine,)  # in a tuple, so that it is no part of this module

    def forward(self, *arguments: Any, **keywords: Any) -> Outputs:
        """Return what the model returns."""
        return Outputs(*self._engine[0](*arguments, **keywords))


@dataclass(frozen=True)
class Stepped:
    norm: Tensor
    applied: Tensor


class DeepSpeedStrategy:
    """One phase under a DeepSpeed engine."""

    def __init__(
        self, model: MixModel, phase: Phase, groups: dict[Group, list[str]], world: World, precision: Precision,
        asked: Asked, path: Path | None = None,
    ) -> None:
        deepspeed = load_deepspeed(world.device)
        join_alone(world)
        self._model, self._world, self._stage = model, world, asked.zero_stage
        self._copy = copy.deepcopy(model)
        self.optimiser = make_optimiser(phase, self._copy, groups)
        os.environ["LOCAL_RANK"] = str(world.local_rank)  # DeepSpeed reads it from there, not only at the start
        self._engine, *_ = deepspeed.initialize(
            model=_Forward(self._copy, precision),
            optimizer=self.optimiser.adamw,
            config=deepspeed_config(asked, path),
        )
        self._clip_grad = asked.clip_grad
        self.module: nn.Module = _Outputs(self._engine)
        self._partitions = None

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Tell DeepSpeed whether the step ends with this micro-batch."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add this part's gradient; DeepSpeed divides the sum over ranks by their number, which is undone here."""
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def step(self) -> Stepped:
        """Clip, update and clear, unless the gradient of the whole global batch is not finite."""
        engine = self._engine
        if self._stage == 0:
            grads = [p.grad for p in self.optimiser.names.values() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(grads))
            if not math.isfinite(norm):
                engine.zero_grad()
                return self._stepped(norm, False)
            engine.step()
            return self._stepped(norm, True)
        engine.step()
        return self._stepped(float(engine.get_global_grad_norm()), engine.was_step_applied())

    def _stepped(self, norm: float, applied: bool) -> Stepped:
        return Stepped(torch.tensor(norm, device=self._world.device), torch.tensor(float(applied), device=self._world.device))

    def close(self) -> None:
        """Let the engine go."""
        self._engine.destroy()


def join_alone(world: World) -> None:
    if world.size == 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if world.device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
