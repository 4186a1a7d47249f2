"""What a library that rebuilds a module in place is given: a copy of the model, behind a forward of tuples.

Their hooks find tensors in tuples, not in Outputs; they cut parameters as rows of memory, so none may be channels_last.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mixdist.engine.precision import Precision
from mixdist.model.mixmodel import MixModel, Outputs


def copy_to_shard(model: MixModel) -> MixModel:
    """Return a copy in training mode, whose parameters require a gradient where the model's do, and are contiguous."""
    copied = copy.deepcopy(model).train()
    for parameter in copied.parameters():
        # Not contiguous(): of a 1 x 1 kernel it leaves the strides of channels_last, which count as contiguous.
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return copied


class TupleModel(nn.Module):
    """A MixModel whose forward returns a tuple; autocast lies inside, as DeepSpeed switches off any around itself."""

    def __init__(self, model: MixModel, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision = precision

    def forward(self, *arguments: Any, **keywords: Any) -> tuple[Tensor | None, ...]:
        """Return the fields of Outputs."""
        with self._precision.autocast():
            outputs = self.model(*arguments, **keywords)
        return outputs.reconstruction, outputs.where, outputs.logits


class OutputsOf(nn.Module):
    """What training's forwards go through: a wrapped `TupleModel`, with Outputs as its result."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, *arguments: Any, **keywords: Any) -> Outputs:
        """Return what the MixModel returns."""
        return Outputs(*self.wrapped(*arguments, **keywords))
