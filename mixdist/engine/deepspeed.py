"""DeepSpeed as a strategy: ZeRO 0 to 3, optimiser and parameters offloaded to the CPU where asked.

DeepSpeed rebuilds a module in place, and a phase ends long before the run does. So it drives a deep copy of the
phase's model, and `publish` brings the trained parameters back, whole, to the plain model that evaluation, pictures,
checkpoints and the next phase use.

What is DeepSpeed's here: partitions, communication, clipping and the update. What stays ours: when a step ends, the
learning rates, the arithmetic (autocast around the forward), and moments by parameter name.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from mixdist.config.schema import Config
from mixdist.config.train_section import ParallelConfig
from mixdist.engine.deepspeed_config import Asked, deepspeed_config
from mixdist.engine.deepspeed_moments import Moments
from mixdist.engine.optim import State
from mixdist.engine.strategy import Spread, Stepped, average_buffers
from mixdist.engine.wrapped import OutputsOf, TupleModel, copy_to_shard
from mixdist.errors import UserError
from mixdist.world import World, join_alone


def load_deepspeed(world: World) -> Any:
    """Import DeepSpeed for this world's device, quietly.

    Raises:
        UserError: it is not installed, or broken.
    """
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)  # else it would guess from what is installed
    at = world.local_rank if world.device.index is None else world.device.index
    os.environ["LOCAL_RANK"] = str(at)  # read from there whenever it looks for its device
    try:
        with _no_stderr():  # it tries out a compiler for operations that are not used here
            found = import_module("deepspeed")
        if world.device.type == "cpu":  # it would compile an all-reduce over named shared memory, for inference
            found.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    except Exception as error:  # a broken build raises whatever it ran into: no nvcc, another torch, a missing library
        raise UserError(
            f"parallel.strategy deepspeed needs DeepSpeed, which cannot be imported ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); pip install 'mixdist[deepspeed]', or use parallel.strategy ddp"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.distributed.* is deprecated", FutureWarning)  # of its own calls
    return found


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep what child processes say, too, off the console; what goes wrong is raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_deepspeed(config: Config, world: World) -> None:
    """Import DeepSpeed and let it read the config that it will be given.

    Raises:
        UserError: see `load_deepspeed` and `deepspeed_config`; or DeepSpeed refuses what the user's file adds.
    """
    load_deepspeed(world)
    train, parallel = config.train, config.parallel
    asked = Asked(
        zero_stage=parallel.zero_stage,
        offload=parallel.offload,
        batch=train.batch,
        micro_batch=1,
        accumulation=1,
        clip_grad=config.optim.clip_grad,
        parameters=1,
        pinned=world.device.type == "cuda",
    )
    tree = deepspeed_config(asked, parallel.deepspeed_config)
    from deepspeed.runtime.config import DeepSpeedConfig

    join_alone(world)
    try:
        DeepSpeedConfig(tree)
    except Exception as error:  # assertions, pydantic's errors, ValueErrors
        raise UserError(
            f"parallel.deepspeed_config {parallel.deepspeed_config}: DeepSpeed refuses it: "
            f"{' '.join(str(error).split())}"
        ) from None


class DeepSpeedStrategy:
    """One phase under a DeepSpeed engine."""

    def __init__(self, parallel: ParallelConfig, spread: Spread) -> None:
        world = spread.world
        deepspeed = load_deepspeed(world)
        join_alone(world)
        self._model, self._world, self._stage = spread.model, world, parallel.zero_stage
        self._copy = copy_to_shard(spread.model)
        self.optimiser = spread.optimiser(self._copy)
        groups = [list(group["params"]) for group in self.optimiser.adamw.param_groups]
        asked = Asked(
            zero_stage=parallel.zero_stage,
            offload=parallel.offload,
            batch=spread.batch,
            micro_batch=spread.rows,
            accumulation=spread.accumulation,
            clip_grad=spread.clip_grad,
            parameters=sum(parameter.numel() for group in groups for parameter in group),
            pinned=world.device.type == "cuda",
        )
        self._engine, *_ = deepspeed.initialize(
            model=TupleModel(self._copy, spread.precision),
            optimizer=self.optimiser.adamw,
            config=deepspeed_config(asked, parallel.deepspeed_config),
        )
        self.module: nn.Module = OutputsOf(self._engine)
        self._moments = Moments(self.optimiser, groups, self._engine.optimizer, self._stage) if self._stage else None

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Say whether the step ends with this micro-batch: windows are as long as ours are, tails included."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add this part's gradient, times the number of ranks, which DeepSpeed divides the sum over ranks by."""
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def step(self) -> Stepped:
        """Clip, update and clear. DeepSpeed's own calls wait for the device, so looking at the norm costs nothing more.

        Stages 1 to 3 leave an update out by themselves where the norm of the global gradient is not finite; stage 0
        is plain torch, and looks nowhere.
        """
        if self._stage > 0:
            self._engine.step()
            norm, applied = float(self._engine.get_global_grad_norm()), self._engine.was_step_applied()
        else:
            gradients = [p.grad for p in self.optimiser.names.values() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            applied = math.isfinite(norm)
            self._engine.step() if applied else self._engine.zero_grad()
        device = self._world.device
        return Stepped(torch.tensor(norm, device=device), torch.tensor(float(applied), device=device))

    @torch.no_grad()
    def mirror(self) -> None:
        """Copy buffers, and parameters, gathered whole, to the plain model."""
        for plain, own in zip(self._model.buffers(), self._copy.buffers(), strict=True):
            plain.copy_(own)
        for name, own in self._copy.named_parameters():
            if own.requires_grad:
                self._model.get_parameter(name).copy_(self._moments.parameter(own) if self._moments else own)

    def publish(self) -> None:
        """Average the running statistics that are each rank's own, and copy all to the plain model."""
        average_buffers(self._copy, self._world)
        self.mirror()

    def moments(self) -> State:
        """Return AdamW's state, gathered whole."""
        return self._moments.gather() if self._moments else self.optimiser.state()

    def load_moments(self, state: State) -> None:
        """Give each rank its part of the moments."""
        if self._moments:
            self._moments.scatter(state)
        else:
            self.optimiser.load(state)

    def close(self) -> None:
        """Take DeepSpeed's hooks off and free the copy; its engine is full of cycles, hence the collection."""
        self._engine.destroy()
        del self._engine, self.module, self._moments, self.optimiser, self._copy
        gc.collect()
