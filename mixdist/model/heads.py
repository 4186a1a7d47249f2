"""Reconstruction heads R: the feature-masked MAE decoder for tokens, the autoencoder for feature maps (A.2, A.3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block
from torch import nn

from mixdist.config.method_section import ModelConfig
from mixdist.errors import UserError
from mixdist.model.backbone import Backbone
from mixdist.model.masking import kept_patches, random_mask, scatter_patches, to_images, visible_patches


class MaeHead(nn.Module):
    """Masks patch *features* and predicts the pixels of the masked patches (A.2).

    Unlike He et al. (2022), all patches went through the backbone before; that is what lets the classification
    head share the pass. Prefix tokens are never masked.
    """

    def __init__(self, backbone: Backbone, config: ModelConfig, mask_ratio: float) -> None:
        super().__init__()
        if backbone.grid == 1:
            raise UserError(
                f"model.backbone '{config.backbone}' makes a single token of a {backbone.image_size} px image, so the "
                f"MAE head has nothing to reconstruct it from; use a larger data.image_size or smaller patches"
            )
        if kept_patches(backbone.grid**2, mask_ratio) == 0:
            raise UserError(
                f"method.mask_ratio {mask_ratio:g} hides all {backbone.grid**2} patches of a {backbone.image_size} px "
                f"image, so nothing is left to reconstruct it from; use at most {1 - 1 / backbone.grid**2:g}"
            )
        width = _decoder_width(backbone.dim, config)
        self.prefix, self.patch = backbone.prefix, backbone.image_size // backbone.grid
        self.mask_ratio = mask_ratio
        self.noise_width = backbone.grid**2
        self.embed = nn.Linear(backbone.dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, self.prefix + self.noise_width, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)
        blocks: list[Any] = [Block(width, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, self.patch**2 * 3)
        self.checkpoints = False  #: whether activations inside of blocks are computed anew in the backward

    def visible(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the places of the patches that are not masked, int64 [B, kept], from numbers [B, noise_width]."""
        return visible_patches(noise, self.mask_ratio)

    def forward(
        self,
        features: torch.Tensor,
        images: torch.Tensor,
        noise: torch.Tensor | None,
        visible: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (reconstruction [B, 3, S, S], mask bool [B, 1, S, S], True on the pixels of masked patches).

        Args:
            features: of all patches, [B, prefix + L, dim]; where the input was masked, of the visible ones alone.
            images: normalised.
            noise: [B, L], which decide the mask.
            visible: what the method of this name gave for them, where the input was masked.
        """
        assert noise is not None, "MaeHead needs random numbers [B, noise_width]"
        mask = random_mask(noise, self.mask_ratio)  # [B, L]
        tokens = self.embed(features)
        token, known = self.mask_token.to(tokens.dtype), tokens[:, self.prefix :]
        if visible is None:
            patches = torch.where(mask[:, :, None], token, known)
        else:
            patches = scatter_patches(known, visible, token, self.noise_width)
        tokens = torch.cat([tokens[:, : self.prefix], patches], dim=1) + self.position
        tokens = checkpoint_seq(self.blocks, tokens) if self.checkpoints else self.blocks(tokens)
        tokens = self.norm(tokens)[:, self.prefix :]
        reconstruction = to_images(self.predict(tokens), self.patch)
        where = mask[:, :, None].expand(-1, -1, self.patch**2 * 3)
        return reconstruction, to_images(where, self.patch)[:, :1]


def _decoder_width(backbone: int, config: ModelConfig) -> int:
    """Return the decoder's width: the backbone's, or the next that the heads divide into multiples of 8.

    Raises:
        UserError: one was asked for that they do not divide.
    """
    width, heads = config.decoder_dim or backbone, config.decoder_heads
    if width % heads == 0:
        return width
    if config.decoder_dim is None:
        return math.ceil(width / (8 * heads)) * 8 * heads
    raise UserError(
        f"model.decoder_heads {heads} does not divide model.decoder_dim {width}; use a decoder_dim of "
        f"{math.ceil(width / heads) * heads}, or other decoder_heads"
    )


class AeHead(nn.Module):
    """Two transposed convolutions from the last feature map to the image (A.3); every pixel counts."""

    noise_width = 0

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        factor = math.ceil(backbone.image_size / backbone.grid)  # 32 for ResNet-18, as 4 x 8
        first = max(step for step in range(1, math.isqrt(factor) + 1) if factor % step == 0)
        hidden = max(16, backbone.dim // 4)
        self.channels_last = backbone.channels_last
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(backbone.dim, hidden, first, stride=first),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden, 3, factor // first, stride=factor // first),
        )

    def forward(
        self, features: torch.Tensor, images: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (reconstruction [B, 3, S, S], all True [B, 1, S, S]); a larger output is cut to the image's size."""
        if self.channels_last:
            features = features.permute(0, 3, 1, 2)
        size = images.shape[-1]
        reconstruction = self.layers(features)[:, :, :size, :size]
        return reconstruction, torch.ones_like(images[:, :1], dtype=torch.bool)


def build_reconstructor(backbone: Backbone, config: ModelConfig, mask_ratio: float) -> MaeHead | AeHead:
    """Return the head that the backbone's features call for."""
    return MaeHead(backbone, config, mask_ratio) if backbone.layout == "tokens" else AeHead(backbone)
