"""How far the objectives pull one way (Sec. 3.2.1): cosines between their gradients in the last layer of the backbone.

The last layer is the linear layer or convolution that the forward through B runs last, and a cosine is over all of its
parameters: for a ViT, weight and bias of the last block's second MLP layer; for ResNet-18, the last 3 x 3 convolution.
The gradients are those of the global batch that the step trains on, by the weights before its update: ∇ℓ_ssl, ∇ℓ_sl,
and that of Eq. 3 between them, α·∇ℓ_ssl + (1 − α)·∇ℓ_sl.

They come from a forward of their own through the whole MixModel, so that every strategy has them, and from a backward
that ends in that layer: all else is frozen meanwhile, and keeps no activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mixdist.data.batch import Batch
from mixdist.engine import heartbeat
from mixdist.engine.batchnorm import CountedRows
from mixdist.engine.strategy import trained_parameters
from mixdist.engine.untouched import untouched
from mixdist.engine.update import Updater, loss_terms, mask_noise
from mixdist.errors import UserError
from mixdist.model.mixmodel import MixModel

PAIRS = ("ssl_sl", "ssl_mix", "sl_mix")  # in the order of all cosines here


@dataclass(frozen=True)
class Alignment:
    """Measures one model's cosines; leaves it, and the random numbers, as they were."""

    model: MixModel  #: whole, on the device
    layer: list[str]  #: names of the parameters that cosines are over
    rows: CountedRows  #: of the model's BatchNorm layers
    scaler: torch.amp.GradScaler  #: keeps small gradients in the range of fp16; a cosine knows no scale
    alpha: float  #: α of Eq. 3 where a phase has none of its own

    def __call__(self, update: Updater, batches: list[Batch], step: int) -> torch.Tensor:
        """Return the cosines, float64 [3] in the order of `PAIRS`, at 0-based ``step`` of a phase.

        A gradient of zeros, as that of ℓ_sl where nothing is labelled, has a cosine that is not a number. All ranks
        call it together, before the update, and get the same.
        """
        phase = update.phase
        alpha = phase.alpha.at(step, phase.steps) if phase.name == "mix" else self.alpha
        update.strategy.mirror()
        with untouched(self.model, update.world.device):
            self.model.train()
            update.seed(step)
            trained_parameters(self.model, self.layer)
            parts = [self._gradients(update, batch) for batch in batches]
        sums = update.world.sum(sum(parts[1:], start=parts[0]))  # [2, parameters + 1]
        ssl, sl = sums[:, :-1] / sums[:, -1:]
        return cosines(ssl, sl, alpha)

    def _gradients(self, update: Updater, batch: Batch) -> torch.Tensor:
        """Return [gradient of the summed loss, images summed] of ℓ_ssl and ℓ_sl for one micro-batch, float64."""
        heartbeat.beat("eval")
        inputs, rows = update.prepare(batch), len(batch.images)
        layer = [self.model.get_parameter(name) for name in self.layer]
        noise = mask_noise(update.prepare.seed, batch, self.model.reconstructor.noise_width, update.world.device)
        with update.precision.autocast(), self.rows.forward(inputs.weight, batch.whole):
            outputs = self.model(inputs.images, reconstruct=True, classify=True, noise=noise)
        found: list[torch.Tensor] = []
        for loss, count in zip(loss_terms(outputs, inputs), batch.counts, strict=True):
            assert loss is not None
            # Of a mean, as in training: the range of fp16 would not hold a sum.
            gradient = torch.autograd.grad(self.scaler.scale(loss / rows), layer, retain_graph=not found)
            flat = torch.cat([each.flatten() for each in gradient]).double() * rows
            found.append(torch.cat([flat, flat.new_tensor([count])]))
        return torch.stack(found)


def cosines(ssl: torch.Tensor, sl: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the cosines [3] between two gradients [P] and the one of Eq. 3, in the order of `PAIRS`."""
    gradients = torch.stack([ssl, sl, alpha * ssl + (1 - alpha) * sl])
    units = gradients / torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    return torch.stack([units[0] @ units[1], units[0] @ units[2], units[1] @ units[2]])


def last_layer(model: MixModel, backbone: list[str]) -> list[str]:
    """Return the names of the parameters of B's last layer.

    Args:
        model: on its device.
        backbone: names of the parameters of B (`mixdist.model.groups`).

    Raises:
        UserError: B has no linear layer and no convolution.
    """
    layers = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd) and f"{name}.weight" in backbone
    }
    ran: list[str] = []
    hooks = [layer.register_forward_hook(lambda module, *_: ran.append(layers[module])) for layer in layers]
    device, size = next(model.parameters()).device, model.backbone.image_size
    try:
        with untouched(model, device), torch.no_grad():
            model.eval()
            model.backbone(torch.zeros(2, 3, size, size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise UserError("train.align_every: the backbone runs no linear layer and no convolution; leave it off")
    return [name for name in backbone if name.rpartition(".")[0] == ran[-1]]
