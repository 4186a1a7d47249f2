"""One optimiser update from the micro-batches of one global batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mixdist.data.batch import Batch, Inputs, Preparation
from mixdist.data.copies import to_device
from mixdist.engine import heartbeat
from mixdist.engine.batchnorm import CountedRows
from mixdist.engine.precision import Precision
from mixdist.engine.strategy import Stepped, Strategy
from mixdist.keyed import make_key, uniform
from mixdist.model.mixmodel import Outputs
from mixdist.objectives import Count, classification_loss, joint_loss, reconstruction_loss
from mixdist.plan import Phase
from mixdist.world import World

Votes = tuple[bool, bool]  # what this rank asks for at the next border between two steps: (stop, save)
Agreed = list[float] | torch.Tensor  # sums over all ranks: on the GPU where several of those agree, else the host's


@dataclass(frozen=True)
class Updated:
    """What one update leaves, still on the device; nothing waits for it."""

    losses: torch.Tensor  #: [ℓ_ssl, ℓ_sl], each summed over this rank's images; 0 for a head that did not run
    counts: tuple[float, float]  #: images that each of them is summed over
    votes: Agreed  #: [ranks that ask to stop, ranks that ask to save]
    stepped: Stepped


@dataclass(frozen=True)
class Updater:
    """Drives one phase, a step at a time."""

    phase: Phase
    strategy: Strategy
    precision: Precision
    prepare: Preparation
    noise_width: int  #: random numbers an image that R wants
    mask_input: bool  #: whether the mask lies before the backbone; in SSL alone
    rows: CountedRows  #: of the model's BatchNorm layers
    world: World
    zero: torch.Tensor  #: 0-dim, on the device

    def __call__(self, batches: list[Batch], step: int, skipped: int = 0, votes: Votes = (False, False)) -> Updated:
        """Make the update of 0-based ``step`` of the phase.

        Args:
            batches: this rank's micro-batches.
            step: place in the phase, which data, masks and α follow.
            skipped: updates of this phase that were left out; the learning rates follow those that were made.
            votes: travel to all ranks with the counts that every step sends anyway.
        """
        self.strategy.optimiser.set_rates(step - skipped)
        self.seed(step)
        heartbeat.beat("agree")
        images, labelled = (sum(column) for column in zip(*(batch.counts for batch in batches), strict=True))
        agreed = self._over_ranks([images, labelled, *votes])
        counts, asked = agreed[:2], agreed[2:]
        losses = []
        for number, batch in enumerate(batches, 1):
            with self.strategy.micro_batch(last=number == len(batches)):
                losses.append(self._backward(batch, step, *counts))
        heartbeat.beat("optim")
        own = images if "reconstruct" in self.phase.drives else 0, labelled if "classify" in self.phase.drives else 0
        return Updated(sum(losses[1:], start=losses[0]), own, asked, self.strategy.step())

    def seed(self, step: int) -> None:
        """Seed what a timm model draws from torch's generator (dropout, drop-path) in 0-based ``step`` of the phase.

        A function of (seed, step, rank), so that a resume needs no generator state. Only these draws depend on the
        rank.
        """
        run_step = self.phase.first_step + step
        seed_device(make_key(self.prepare.seed, "model", run_step, self.world.rank) >> 1, self.world.device)

    def _over_ranks(self, own: list[float]) -> Agreed:
        """Return the sums of what each rank has: [images, labelled images, votes to stop, votes to save]."""
        if self.world.size == 1:
            return own
        summed = self.world.sum(to_device(torch.tensor(own, dtype=torch.float32), self.world.device))
        return summed if summed.is_cuda else summed.tolist()

    def _backward(self, batch: Batch, step: int, images: Count, labelled: Count) -> torch.Tensor:
        """Add a micro-batch's gradient; return its [ℓ_ssl, ℓ_sl], summed over images."""
        heartbeat.beat("forward")
        inputs = self.prepare(batch)
        with self.precision.autocast(), self.rows.forward(inputs.weight, batch.whole):
            outputs = self.strategy.module(
                inputs.images,
                reconstruct="reconstruct" in self.phase.drives,
                classify="classify" in self.phase.drives,
                noise=mask_noise(self.prepare.seed, batch, self.noise_width, self.world.device),
                mask_input=self.mask_input,
            )
        ssl, sl = loss_terms(outputs, inputs)
        heartbeat.beat("backward")
        self.strategy.backward(joint_loss(ssl, sl, self.phase.alpha.at(step, self.phase.steps), images, labelled))
        return torch.stack([self.zero if loss is None else loss.detach() for loss in (ssl, sl)])


def mask_noise(seed: int, batch: Batch, width: int, device: torch.device) -> torch.Tensor | None:
    """Draw the numbers [B, width] that decide the mask, keyed by (seed, epoch, sample); None for a head without one."""
    if width == 0:
        return None
    drawn = uniform(make_key(seed, "mask", batch.epoch), batch.ids, width)
    return to_device(torch.from_numpy(drawn), device)


def loss_terms(outputs: Outputs, inputs: Inputs) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return (ℓ_ssl, ℓ_sl), summed over the images of a micro-batch; None for a head that did not run."""
    ssl = sl = None
    if outputs.reconstruction is not None and outputs.where is not None:
        ssl = reconstruction_loss(outputs.reconstruction, inputs.images, outputs.where, inputs.weight)
    if outputs.logits is not None:
        sl = classification_loss(outputs.logits, inputs.labels, inputs.weight, inputs.mixup, inputs.heads)
    return ssl, sl


def seed_device(seed: int, device: torch.device) -> None:
    """Seed torch's generator of one device.

    Not ``torch.manual_seed``: it also notes a seed, with a formatted stack, for each kind of device that was never
    used, which took a third of the step of a null model (benchmarks/step.py).
    """
    generator = torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
    generator.manual_seed(seed)
