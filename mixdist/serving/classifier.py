"""Classifier: backbone and classification head of a run, from the pixels that decoding gives to logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
from torch import nn

from mixdist.config.method_section import ModelConfig
from mixdist.data.augment import normalise
from mixdist.data.task import Task
from mixdist.errors import UserError
from mixdist.model.backbone import Backbone, build_backbone

Weights = dict[str, torch.Tensor]  # name -> tensor, as a checkpoint's model.safetensors has them


class Classifier(nn.Module):
    """B and C as training drives them (`MixModel`), by the same names, without R."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.pooled_dim, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, classes] of normalised images [B, 3, S, S]."""
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the head sees, [B, pooled_dim], of normalised images [B, 3, S, S]."""
        return self.backbone.pool(self.backbone(images))


class FromPixels(nn.Module):
    """A network behind the normalisation of its training set, so that nobody who serves it can forget that."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, task: Task) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(task.mean), persistent=False)
        self.register_buffer("std", torch.tensor(task.std), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what the network makes of pixels uint8 [B, S, S, 3], R, G and B."""
        answer: torch.Tensor = self.net(normalise(pixels, self.mean, self.std))
        return answer


def build_classifier(
    model: ModelConfig, image_size: int, weights: Weights, trained_with: str, where: str
) -> Classifier:
    """Build the network that the weights belong to, on the CPU, to be evaluated.

    Args:
        model: backbone and its options.
        image_size: pixels of a side.
        weights: with those of R or without.
        trained_with: version of timm.
        where: what the weights are called in a message.

    Raises:
        UserError: this timm does not know the backbone, or builds another one than was trained.
    """
    classes = len(weights["classifier.weight"]) if "classifier.weight" in weights else 1
    with timm_as_trained(trained_with, where):
        net = Classifier(build_backbone(model, image_size), classes)
        own = {name: tensor for name, tensor in weights.items() if not name.startswith("reconstructor.")}
        net.load_state_dict(own)
    return net.eval().requires_grad_(False)


@contextmanager
def timm_as_trained(version: str, where: str) -> Iterator[None]:
    """Name the timm that a model was trained with where this one cannot build it, or builds another one.

    Raises:
        UserError: it is so.
    """
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        UserError,
        ValueError,
    ) as error:  # what timm's constructors raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{where} cannot be built with timm {timm.__version__} ({reason}); it was trained with timm {version}: "
            f"pip install timm=={version}"
        ) from error
