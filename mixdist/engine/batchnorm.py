"""BatchNorm whose statistics are over the rows that count of the global micro-batch: of all ranks, on any device.

Each rank finds the mean and the squared deviations of its own rows, and the ranks' findings are merged (Chan, Golub and
LeVeque 1979) in float64: no difference of large sums anywhere, and one collective a layer in each direction. A row of
weight 0, which only fills up a rank's share, counts nowhere. torch's own SyncBatchNorm runs on GPUs alone and counts
every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixdist.world import World

KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)  # whose forward `CountedBatchNorm` repeats


class CountedRows:
    """Which rows of the micro-batch in flight count; told to all layers of a model by whoever runs its forward."""

    def __init__(self, world: World) -> None:
        self.world = world  #: the ranks whose rows are normalised together
        self.weight: torch.Tensor | None = None  #: [B], 0 for a row that does not count; None: every row counts
        self.learns = True  #: whether running statistics move

    @contextmanager
    def forward(self, weight: torch.Tensor, whole: bool) -> Iterator[None]:
        """Surround the forward of one micro-batch, not its backward.

        A forward that gradient checkpointing repeats in the backward finds the same rows, but does not move the running
        statistics a second time.

        Args:
            weight: of the rows, [B].
            whole: whether it is known that none of them is 0.
        """
        self.weight, self.learns = None if whole else weight, True
        yield
        self.learns = False

    def __deepcopy__(self, memo: dict[int, Any]) -> CountedRows:
        """A strategy may drive a copy of the model: its layers are told as well."""
        return self


class CountedBatchNorm(_BatchNorm):
    """Takes the place of a BatchNorm layer, with its parameters, buffers and their names.

    In evaluation, and where one process's rows all count, it is torch's own kernel.
    """

    def __init__(self, layer: _BatchNorm, rows: CountedRows) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = layer.affine, layer.track_running_stats
        self.weight, self.bias = layer.weight, layer.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(layer, name))
        self.train(layer.training)
        self.rows = rows
        # timm's layer also activates; children by the names that they had.
        for name, child in layer.named_children():
            self.add_module(name, child)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise [N, C, ...], N a multiple of the rows of the batch (windows and tokens of a row stay together)."""
        if not self.training:
            statistics = (self.running_mean, self.running_var)
            output = F.batch_norm(input, *statistics, self.weight, self.bias, self.running_mean is None, 0.0, self.eps)
        elif self.rows.world.size == 1 and self.rows.weight is None and self.momentum is not None:
            output = self._plain(input)
        else:
            output = self._counted(input)
        for child in self.children():  # timm applies drop, then act: their order as children
            output = child(output)
        return output

    def _plain(self, input: torch.Tensor) -> torch.Tensor:
        mean, variance = self.running_mean, self.running_var
        if not self.rows.learns and mean is not None and variance is not None:
            mean, variance = mean.clone(), variance.clone()  # a repeated forward has to save the same tensors
        elif self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(input, mean, variance, self.weight, self.bias, True, self.momentum or 0.0, self.eps)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _counted(self, input: torch.Tensor) -> torch.Tensor:
        counts = torch.ones(len(input), device=input.device)
        if self.rows.weight is not None:
            each = (self.rows.weight > 0).float()
            counts = each.repeat_interleave(len(input) // len(each), output_size=len(input))
        own = _own_statistics(input, counts)
        mean, variance, count = _merge(self.rows.world.stack(own))
        if self.rows.learns:
            self._learn(mean, variance, count)
        inverse = (variance + self.eps).rsqrt()
        output: torch.Tensor = _Normalise.apply(
            input, self.weight, self.bias, mean.float(), inverse.float(), count.float(), counts, self.rows.world
        )
        return output

    @torch.no_grad()
    def _learn(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        """Move the running statistics towards those of the global micro-batch, whose variance is made unbiased."""
        if self.running_mean is None or self.running_var is None:
            return
        any_row = (count > 0).to(self.running_mean.dtype)
        rate = any_row * (self.momentum or 0.0)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(any_row.to(torch.int64))
            if self.momentum is None:  # the mean over all micro-batches so far
                rate = any_row / self.num_batches_tracked.clamp(min=1)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)


def _per_channel(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _over_places(values: torch.Tensor) -> torch.Tensor:
    """Sum [N, C, ...] over all but rows and channels."""
    return values.sum(tuple(range(2, values.dim()))) if values.dim() > 2 else values


@torch.no_grad()
def _own_statistics(input: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return this rank's [mean per channel, squared deviations per channel, elements per channel], float64."""
    values, each = input.float(), counts[:, None]
    count = counts.sum(dtype=torch.float64) * values.shape[2:].numel()
    some = count.clamp(min=1)
    near = ((each * _over_places(values)).sum(0) / some).float()  # the mean, as float32 sums give it
    deviations = values - _per_channel(near, values)
    rest = (each * _over_places(deviations)).sum(0).double()
    squares = (each * _over_places(deviations.square_())).sum(0).double()
    return torch.cat([near + rest / some, (squares - rest.square() / some).clamp(min=0), count[None]])


def _merge(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merge what `_own_statistics` found on each rank, [ranks, 2C + 1], into (mean, biased variance, elements)."""
    means, squares = found[:, :-1].chunk(2, dim=1)
    counts = found[:, -1:]
    count = counts.sum()
    mean = (counts * means).sum(0) / count.clamp(min=1)
    variance = (squares + counts * (means - mean).square()).sum(0) / count.clamp(min=1)
    return mean, variance, count


class _Normalise(torch.autograd.Function):
    """Normalise by statistics of all ranks; the gradient goes through them to the rows of all ranks that count."""

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        inverse: torch.Tensor,
        count: torch.Tensor,
        counts: torch.Tensor,
        world: World,
    ) -> torch.Tensor:
        ctx.save_for_backward(input, weight, mean, inverse, count, counts)
        ctx.world = world
        scale = inverse if weight is None else inverse * weight
        output = (input.float() - _per_channel(mean, input)).mul_(_per_channel(scale, input))
        if bias is not None:
            output.add_(_per_channel(bias, input))
        return output.to(input.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        input, weight, mean, inverse, count, counts = ctx.saved_tensors
        gradient = gradients[0].float()
        normal = (input.float() - _per_channel(mean, input)).mul_(_per_channel(inverse, input))
        own = torch.stack([_over_places(gradient).sum(0), _over_places(gradient * normal).sum(0)])
        both = ctx.world.sum(own.clone()) / count.clamp(min=1)
        through, scaled = (_per_channel(values, input) for values in both)
        shares = counts.view(-1, *[1] * (input.dim() - 1))
        scale = _per_channel(inverse if weight is None else inverse * weight, input)
        of_input = (gradient - shares * (through + normal * scaled)).mul_(scale).to(input.dtype)
        affine = (None, None) if weight is None else (own[1], own[0])
        return of_input, *affine, None, None, None, None, None


def buffers_of_ranks(model: nn.Module) -> list[torch.Tensor]:
    """Return the floating buffers that each rank moves on its own; those of synchronised layers are equal."""
    shared = {
        id(buffer)
        for module in model.modules()
        if isinstance(module, CountedBatchNorm) and module.rows.world.size > 1
        for buffer in module.buffers(recurse=False)
    }
    return [buffer for buffer in model.buffers() if buffer.is_floating_point() and id(buffer) not in shared]


def count_rows(model: nn.Module, world: World, synchronise: bool) -> CountedRows:
    """Let the model's BatchNorm layers count only rows that have a weight, in place.

    Args:
        model: whose forwards of training are from then on surrounded by the `CountedRows` returned.
        world: this rank's place.
        synchronise: whether statistics are over all ranks, or each rank's own.
    """
    rows = CountedRows(world if synchronise else World.alone(world.device))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and type(child) in KNOWN:
                setattr(parent, name, CountedBatchNorm(child, rows))
    return rows
