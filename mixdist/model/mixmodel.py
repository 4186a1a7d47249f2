"""MixModel: one backbone pass, then the heads asked for. Its forward is the only one that training calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mixdist.config.schema import Config
from mixdist.model.backbone import Backbone, build_backbone
from mixdist.model.heads import AeHead, MaeHead, build_reconstructor


@dataclass(frozen=True)
class Outputs:
    """What one forward returns; None for a head that was not asked for."""

    reconstruction: torch.Tensor | None = None  #: [B, 3, S, S], in normalised pixels
    where: torch.Tensor | None = None  #: bool [B, 1, S, S], pixels that ℓ_ssl is taken over
    logits: torch.Tensor | None = None  #: [B, classes]


class MixModel(nn.Module):
    """Backbone B, reconstruction head R and classification head C."""

    def __init__(self, backbone: Backbone, reconstructor: MaeHead | AeHead, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.reconstructor = reconstructor
        self.classifier = nn.Linear(backbone.pooled_dim, classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        images: torch.Tensor,
        reconstruct: bool,
        classify: bool,
        noise: torch.Tensor | None = None,
        mask_input: bool = False,
    ) -> Outputs:
        """Run B once on images [B, 3, S, S], then the heads asked for on all of its features (A.2).

        Args:
            images: normalised pixels.
            reconstruct: whether R runs.
            classify: whether C runs.
            noise: uniform numbers [B, R's noise_width] that decide the mask; only read by R.
            mask_input: whether B, too, is kept from the patches that the mask hides (`method.ssl_masking`); R alone.
        """
        if mask_input:
            return self._reconstruct_visible(images, noise)
        features = self.backbone(images)
        reconstruction = where = logits = None
        if reconstruct:
            reconstruction, where = self.reconstructor(features, images, noise)
        if classify:
            logits = self.classifier(self.backbone.pool(features))
        return Outputs(reconstruction, where, logits)

    def _reconstruct_visible(self, images: torch.Tensor, noise: torch.Tensor | None) -> Outputs:
        assert isinstance(self.reconstructor, MaeHead)
        assert noise is not None
        visible = self.reconstructor.visible(noise)
        return Outputs(*self.reconstructor(self.backbone(images, visible), images, noise, visible))


def build_model(config: Config, image_size: int, classes: int) -> MixModel:
    """Build the model with weights that depend on the seed alone, on the CPU.

    Raises:
        UserError: see `build_backbone` and the checks of `Backbone`, and decoder settings that do not fit each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = build_backbone(config.model, image_size)
        reconstructor = build_reconstructor(backbone, config.model, config.method.mask_ratio)
        model = MixModel(backbone, reconstructor, max(classes, 1))
    if config.method.ssl_masking == "input":
        backbone.check_input_masking(config.model.backbone)
    if config.train.gradient_checkpointing:
        backbone.checkpoint(config.model.backbone)
        if isinstance(reconstructor, MaeHead):
            reconstructor.checkpoints = True
    return model
