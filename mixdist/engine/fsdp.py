"""FSDP2 as a strategy: parameters, gradients and moments in shards, one block of the model whole at a time.

torch's `fully_shard` turns a module's parameters into DTensors in place. So, as under DeepSpeed, a deep copy of the
phase's model is sharded, and `publish` brings it back whole. Moments cross by parameter name as whole tensors.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mixdist.engine.optim import State, step_if_finite
from mixdist.engine.strategy import Spread, Stepped, average_buffers
from mixdist.engine.wrapped import OutputsOf, TupleModel, copy_to_shard
from mixdist.world import join_alone


class FsdpStrategy:
    """One phase under FSDP2."""

    def __init__(self, spread: Spread) -> None:
        join_alone(spread.world)
        self._model, self._world, self._clip_grad = spread.model, spread.world, spread.clip_grad
        self._copy = copy_to_shard(spread.model)
        mesh = init_device_mesh(spread.world.device.type, (spread.world.size,))
        for block in _blocks(self._copy):
            fully_shard(block, mesh=mesh)
        # Outputs that are views would lose FSDP2's hook to an operation in place; losses make none.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        whole = TupleModel(self._copy, spread.precision)
        self._root: FSDPModule = fully_shard(whole, mesh=mesh)  # the same object, with a second class
        if spread.world.device.type == "cpu":  # gloo of torch 2.8 sums where it is asked for the mean, and says nothing
            for module in whole.modules():
                if isinstance(module, FSDPModule):
                    module.set_force_sum_reduction_for_comms(True)
        self.optimiser = spread.optimiser(self._copy)  # over the shards
        self.module: nn.Module = OutputsOf(whole)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Hold the reduce-scatter back until a step's last micro-batch; until then gradients are whole."""
        self._root.set_requires_gradient_sync(last)
        self._root.set_is_last_backward(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add this part's gradient, times the number of ranks, which FSDP2 divides the sum over ranks by."""
        torch.autograd.backward(loss * self._world.size)

    def step(self) -> Stepped:
        """Clip and update the shards; the update is left out on the device where the gradient is not finite."""
        adamw, parameters = self.optimiser.adamw, list(self.optimiser.names.values())
        norm = _whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if self._clip_grad:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_grad, norm)
        applied = step_if_finite(adamw, norm)
        adamw.zero_grad(set_to_none=True)
        return Stepped(norm, applied)

    @torch.no_grad()
    def mirror(self) -> None:
        """Copy buffers, and parameters, gathered whole, to the plain model."""
        for plain, own in zip(self._model.buffers(), self._copy.buffers(), strict=True):
            plain.copy_(own)
        for name, own in self.optimiser.names.items():
            self._model.get_parameter(name).copy_(_whole(own))

    def publish(self) -> None:
        """Average the running statistics that are each rank's own, and copy all to the plain model."""
        average_buffers(self._copy, self._world)
        self.mirror()

    def moments(self) -> State:
        """Return AdamW's state, gathered whole."""
        return {
            name: {key: _whole(value) for key, value in state.items()} for name, state in self.optimiser.state().items()
        }

    def load_moments(self, state: State) -> None:
        """Give each rank its shards of the moments."""
        sharded: State = {}
        for name, parameter in self.optimiser.names.items():
            assert isinstance(parameter, DTensor)
            sharded[name] = {
                key: value
                if value.dim() == 0
                else distribute_tensor(value.to(self._world.device), parameter.device_mesh, parameter.placements)
                for key, value in state.get(name, {}).items()
            }
        self.optimiser.load({name: each for name, each in sharded.items() if each})

    def close(self) -> None:
        """Free the copy; FSDP2's modules are in cycles, hence the collection."""
        del self.module, self.optimiser, self._root, self._copy
        gc.collect()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return what is gathered at a time, inner ones first: the blocks and stages that a sequence calls one by one."""
    found = [
        child
        for module in model.modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
        for child in module.children()
        if len(list(child.parameters())) > len(list(child.parameters(recurse=False)))  # more than one layer
    ]
    return list(reversed(list(dict.fromkeys(found))))
