"""One optimiser update from the micro-batches of one global batch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from mixdist.data.batch import Batch, Inputs, Preparation
from mixdist.engine.optim import Optimiser
from mixdist.engine.precision import Precision
from mixdist.engine.strategy import Strategy
from mixdist.keyed import make_key, uniform
from mixdist.model.mixmodel import Outputs
from mixdist.objectives import LossTerm, classification_loss, joint_loss, labelled_weight, reconstruction_loss
from mixdist.world import World


@dataclass(frozen=True)
class StepSums:
    """What one update leaves for the record, still on the device; nothing waits for it."""

    losses: torch.Tensor  #: [ssl sum, ssl count, sl sum, sl count] of this rank
    grad_norm: torch.Tensor | None  #: of the global batch, before clipping; None where nobody asked for it


@dataclass(frozen=True)
class Updater:
    """Drives one phase, a step at a time."""

    strategy: Strategy
    optimiser: Optimiser
    scaler: torch.amp.GradScaler
    precision: Precision
    prepare: Preparation
    noise_width: int  #: random numbers an image that R wants
    clip_grad: float | None
    world: World

    def __call__(self, batches: list[Batch], step: int, record: bool) -> StepSums:
        """Make the update of 0-based ``step`` of the phase; ``record`` asks for the gradient's norm."""
        self.optimiser.set_rates(step)
        # Dropout and drop-path of a timm model draw from torch's generator: a function of (seed, step, rank), so that
        # a resume needs no generator state. Only these draws depend on the rank.
        run_step = self.optimiser.phase.first_step + step
        torch.manual_seed(make_key(self.prepare.seed, "model", run_step, self.world.rank) >> 1)
        counts = self._global_counts(batches)
        sums = torch.zeros(4, device=self.world.device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else self.strategy.accumulate():
                sums += self._backward(batch, step, counts)
        self.scaler.unscale_(self.optimiser.adamw)
        norm = self._clip() if record or self.clip_grad else None
        self.scaler.step(self.optimiser.adamw)
        self.scaler.update()
        self.optimiser.adamw.zero_grad(set_to_none=True)
        return StepSums(sums, norm)

    def _global_counts(self, batches: list[Batch]) -> torch.Tensor:
        """Return [images, labelled images] of the global batch, over all ranks and micro-batches."""
        weights = torch.cat([batch.weight for batch in batches])
        labelled = labelled_weight(torch.cat([batch.labels for batch in batches]), weights)
        return self.world.sum(torch.stack([weights.sum(), labelled.sum()]))

    def _backward(self, batch: Batch, step: int, counts: torch.Tensor) -> torch.Tensor:
        """Add a micro-batch's gradient; return its [ssl sum, ssl count, sl sum, sl count]."""
        phase = self.optimiser.phase
        inputs = self.prepare(batch)
        with self.precision.autocast():
            outputs = self.strategy.module(
                inputs.images,
                reconstruct="reconstruct" in phase.drives,
                classify="classify" in phase.drives,
                noise=self._mask_noise(batch),
            )
        ssl, sl = loss_terms(outputs, inputs)
        loss = joint_loss(ssl, sl, phase.alpha.at(step, phase.steps), counts[0], counts[1])
        torch.autograd.backward(self.scaler.scale(loss * self.strategy.gradient_scale))
        nothing = torch.zeros((), device=loss.device)
        terms = [value for term in (ssl, sl) for value in ((term.sum, term.count) if term else (nothing, nothing))]
        return torch.stack(terms).detach()

    def _clip(self) -> torch.Tensor:
        """Return the L2 norm of the gradient, and scale the gradient down to ``clip_grad`` where it is set."""
        parameters = list(self.optimiser.names.values())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_grad, norm)
        return norm

    def _mask_noise(self, batch: Batch) -> torch.Tensor | None:
        """Draw the numbers that decide the mask, keyed by (seed, epoch, sample)."""
        if self.noise_width == 0:
            return None
        drawn = uniform(make_key(self.prepare.seed, "mask", batch.epoch), batch.ids, self.noise_width)
        return torch.from_numpy(drawn).to(self.world.device, non_blocking=True)


def loss_terms(outputs: Outputs, inputs: Inputs) -> tuple[LossTerm | None, LossTerm | None]:
    """Return (ℓ_ssl, ℓ_sl) of a micro-batch, None for a head that did not run."""
    ssl = sl = None
    if outputs.reconstruction is not None and outputs.where is not None:
        ssl = reconstruction_loss(outputs.reconstruction, inputs.images, outputs.where, inputs.weight)
    if outputs.logits is not None:
        sl = classification_loss(outputs.logits, inputs.labels, inputs.weight)
    return ssl, sl
