"""Which parameters each objective moves, found once by following the gradient, for any timm model.

B is what both losses reach, R what only ℓ_ssl reaches, C what only ℓ_sl reaches: a timm model may hold layers that
belong to C (ViT's fc_norm behind a mean pool, MobileNet's last convolution), and a list of names would miss them.
So a phase trains exactly what has a gradient in it, and DDP never has to search for unused parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mixdist.model.mixmodel import MixModel, Outputs
from mixdist.plan import Group


def parameter_groups(model: MixModel) -> dict[Group, list[str]]:
    """Return the names of the parameters of B, R and C; those that no loss reaches are in none of them."""
    device = next(model.parameters()).device
    images = torch.zeros(2, 3, model.backbone.image_size, model.backbone.image_size, device=device)
    noise = torch.linspace(0, 1, 2 * max(1, model.reconstructor.noise_width), device=device).reshape(2, -1)
    was_training = model.training
    by_ssl = _reached(model, lambda: model(images, reconstruct=True, classify=False, noise=noise))
    by_sl = _reached(model, lambda: model(images, reconstruct=False, classify=True))
    model.train(was_training)
    names = [name for name, _ in model.named_parameters()]
    return {
        "backbone": [name for name in names if name in by_ssl and name in by_sl],
        "reconstruct": [name for name in names if name in by_ssl and name not in by_sl],
        "classify": [name for name in names if name in by_sl and name not in by_ssl],
    }


def without_decay(model: MixModel) -> frozenset[str]:
    """Return the names of the parameters that weight decay is commonly kept from.

    Vectors (biases, scales of normalisation layers), position embeddings and learned tokens; of the backbone also what
    its timm model names itself.
    """
    net = model.backbone.net
    named = {f"backbone.net.{name}" for name in getattr(net, "no_weight_decay", set)()}
    named |= {f"reconstructor.{name}" for name in ("position", "mask_token")}
    return frozenset(name for name, value in model.named_parameters() if value.ndim <= 1 or name in named)


def _reached(model: nn.Module, forward: Callable[[], Outputs]) -> set[str]:
    """Return the names of the parameters that have a gradient in an output; the model is left in evaluation mode."""
    model.train()  # LeViT and others keep what they computed in evaluation, with its graph, until they train again
    model.eval()  # so that the probe leaves BatchNorm's running statistics alone
    outputs = forward()
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    output = outputs.reconstruction if outputs.reconstruction is not None else outputs.logits
    assert output is not None
    gradients = torch.autograd.grad(output.sum(), [parameter for _, parameter in named], allow_unused=True)
    return {name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is not None}
