"""The two sides of a library that wraps a model: its hooks see tensors only in tuples, ours wants Outputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mixdist.engine.precision import Precision
from mixdist.model.mixmodel import MixModel, Outputs


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
