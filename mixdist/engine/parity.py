"""Parity: the same few updates of a phase under two strategies, and how far apart they end.

AdamW divides a gradient by its own size. So a strategy that scales gradients wrongly moves parameters almost rightly:
what gives it away are the moments and the norm, which are compared too. For the same reason a gradient that is zero
but for rounding (of a key's bias under softmax) moves its parameter by a whole step in a random direction: where the
reference's second moment says so, parameters are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from mixdist.data.batch import Batch
from mixdist.engine.loop import Trainer
from mixdist.engine.optim import State
from mixdist.engine.update import Updated, Updater
from mixdist.plan import Phase

ROUNDING = 1e-3  # a gradient below this share of its tensor's largest is rounding


@dataclass(frozen=True)
class Trained:
    """Where a few updates of one phase led, whole on every rank."""

    parameters: dict[str, Tensor]  #: those that the phase trains, and running statistics
    moments: State
    losses: list[float]  #: of each update, over all ranks
    norms: list[float]
    applied: list[bool]


@dataclass(frozen=True)
class Difference:
    """How far one strategy is from another."""

    parameters: float  #: largest, relative to its tensor's largest or to the model's rms (biases start at 0)
    moments: float  #: the same
    loss: float  #: largest of any update, relative to the largest loss
    norm: float  #: the same of the gradient norms
    updates: tuple[int, int]  #: applied by each

    def within(self, tolerance: float) -> bool:
        """Say whether all of it is rounding, of which the moments, sums of small squares, have ten times as much."""
        return self.updates[0] == self.updates[1] and all(
            value <= tolerance for value in (self.parameters, self.moments / 10, self.loss, self.norm)
        )  # of a NaN, too, this says no


def train_a_little(trainer: Trainer, phase: Phase, updates: int) -> Trained:
    """Make the first updates of a phase, the last of them with an epoch's last and shortest batch.

    The trainer's model is moved; its progress is not.
    """
    update = trainer.updater(phase)
    losses, norms, applied = [], [], []
    with closing(update.strategy) as strategy:
        trainer.model.train()
        for step, batches in enumerate(_batches(trainer, phase, updates)):
            updated = update(batches, step)
            losses.append(_loss(update, updated, step))
            norms.append(float(updated.stepped.norm))
            applied.append(bool(updated.stepped.applied))
        strategy.publish()
        parameters = {
            name: parameter.detach().clone()
            for name, parameter in trainer.model.named_parameters()
            if parameter.requires_grad
        } | {name: buffer.clone() for name, buffer in trainer.model.named_buffers() if buffer.is_floating_point()}
        moments = {
            name: {key: value.clone() for key, value in state.items()} for name, state in strategy.moments().items()
        }
    return Trained(parameters, moments, losses, norms, applied)


def _batches(trainer: Trainer, phase: Phase, updates: int) -> Iterator[list[Batch]]:
    steps = phase.steps_per_epoch
    places = [divmod(step, steps) for step in range(updates - 1)]
    for epoch, step in [*places, (0, steps - 1)]:
        with closing(trainer.feed.train[phase.name].epoch(phase.first_epoch + epoch, step + 1, step)) as stream:
            yield next(stream)


def _loss(update: Updater, updated: Updated, step: int) -> float:
    own = torch.cat([updated.losses, updated.losses.new_tensor(updated.counts)])
    ssl, sl, images, labelled = update.world.sum(own).tolist()
    alpha = update.phase.alpha.at(step, update.phase.steps)
    return float(alpha * ssl / max(images, 1) + (1 - alpha) * sl / max(labelled, 1))


def difference(reference: Trained, other: Trained) -> Difference:
    """Compare two ends of the same updates."""
    rms = _rms(reference.parameters.values())
    parameters = [
        _apart(value, other.parameters[name], rms, _moved(reference.moments.get(name, {})))
        for name, value in reference.parameters.items()
    ]
    moments = [
        _apart(state[key], other.moments[name].get(key, torch.zeros(())), least)
        for key in ("exp_avg", "exp_avg_sq", "step")
        for least in [_rms(state[key] for state in reference.moments.values() if key in state)]
        for name, state in reference.moments.items()
        if key in state
    ]
    return Difference(
        parameters=max(parameters, default=0.0),
        moments=max(moments, default=0.0),
        loss=_apart(torch.tensor(reference.losses), torch.tensor(other.losses)),
        norm=_apart(_applied(reference), _applied(other)) if reference.applied == other.applied else math.inf,
        updates=(sum(reference.applied), sum(other.applied)),
    )


def _rms(tensors: Iterable[Tensor]) -> Tensor:
    values = [tensor.flatten() for tensor in tensors]
    return torch.cat(values).square().mean().sqrt() if values else torch.zeros(())


def _applied(trained: Trained) -> Tensor:
    """Return the norms of the updates that were made; of the others, some say infinite and some not a number."""
    return torch.tensor([norm for norm, applied in zip(trained.norms, trained.applied, strict=True) if applied])


def _moved(state: dict[str, Tensor]) -> Tensor:
    """Return where a parameter's gradient was more than rounding."""
    if "exp_avg_sq" not in state:
        return torch.ones((), dtype=torch.bool)
    size = state["exp_avg_sq"].sqrt()
    return size > ROUNDING * size.max()


def _apart(one: Tensor, other: Tensor, least: Tensor | float = 0.0, where: Tensor | None = None) -> float:
    """Return the largest difference, relative to the largest value or ``least``."""
    apart = (one - other.to(one.device)).abs()
    if where is not None:
        apart = apart * where.to(one.device)
    if not one.numel():
        return 0.0
    largest = max(float(one.abs().max()), float(least))
    return float(apart.max()) / largest if largest > 0 else float(apart.max())
