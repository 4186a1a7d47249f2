"""Backbone B: any timm model behind one interface, its features as tokens or as a map, in one forward."""

from __future__ import annotations

import math
from typing import Any, Literal

import timm
import torch
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mixdist.config.method_section import ModelConfig
from mixdist.errors import UserError
from mixdist.model.hints import nearest_model, options_of
from mixdist.model.masking import gather_patches


class Backbone(nn.Module):
    """A timm model without its classifier.

    Attributes:
        layout: what `forward` returns. "tokens": [B, prefix + grid², dim], the patch tokens in raster order behind
            ``prefix`` others (a class token). "map": [B, dim, grid, grid], or
            [B, grid, grid, dim] where ``channels_last``.
        pooled_dim: width of what `pool` returns.
    """

    net: Any  # a timm model: its forward_features and forward_head are no part of nn.Module's type
    layout: Literal["tokens", "map"]

    def __init__(self, net: nn.Module, image_size: int, name: str) -> None:
        super().__init__()
        self.net = net
        self.image_size = image_size
        # Hiera's tokens come in the order in which its mask units were unrolled; it can say what raster order is.
        self._unrolled = len(self.net.blocks) - 1 if hasattr(net, "reroll") else None
        was_training = net.training
        net.eval()
        with torch.no_grad():
            features = self(torch.zeros(2, 3, image_size, image_size))
            self._read_shape(features, name)
            self.pooled_dim = int(self.pool(features).shape[-1])
        net.train(was_training)

    def _read_shape(self, features: torch.Tensor | list[torch.Tensor], name: str) -> None:
        """Learn the layout from the features of a probe, and refuse a model that has neither."""
        if not isinstance(features, torch.Tensor):
            raise UserError(
                f"model.backbone '{name}' gives {len(features)} features of different scales, "
                f"a {type(features).__name__}; mixdist needs one square grid of tokens or one square feature map"
            )
        shape = tuple(features.shape)
        self.channels_last = False
        self.prefix = 0
        if len(shape) == 3:
            self.layout = "tokens"
            one_more = math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1  # VOLO has a class token, and does not say so
            self.prefix = int(getattr(self.net, "num_prefix_tokens", one_more))
            patches = shape[1] - self.prefix
            self.grid, self.dim = math.isqrt(patches), shape[2]
            square = patches > 0 and self.grid**2 == patches and self.image_size % self.grid == 0
        else:
            self.layout = "map"
            self.channels_last = len(shape) == 4 and getattr(self.net, "output_fmt", "NCHW") == "NHWC"
            self.dim, self.grid = (shape[3], shape[1]) if self.channels_last else (shape[1], shape[-1])
            square = len(shape) == 4 and shape[2] == self.grid
        if not square:
            raise UserError(
                f"model.backbone '{name}' gives features of shape {list(shape)} for {self.image_size} px images; "
                f"mixdist needs a square grid of tokens or a square feature map"
            )

    def checkpoint(self, name: str) -> None:
        """Let the blocks' activations be computed anew in the backward.

        Raises:
            UserError: the model ``name`` has no such way.
        """
        try:
            self.net.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:  # timm's two ways to say so
            raise UserError(
                f"train.gradient_checkpointing: timm's model.backbone '{name}' has none; leave it off, and lower "
                f"train.micro_batch where memory is short"
            ) from error

    def check_input_masking(self, name: str) -> None:
        """Refuse a model whose patches cannot be left out one by one.

        Raises:
            UserError: ``name`` gives a feature map, or is no plain ViT.
        """
        net, reason, plain = self.net, "", VisionTransformer
        if self.layout == "map":
            reason = "gives a feature map, whose convolutions or windows need every place"
        elif not isinstance(net, plain) or type(net).forward_features is not plain.forward_features:
            reason = (
                f"is a {type(net).__name__}, whose forward is not the plain one of blocks over patches and positions"
            )
        elif not isinstance(net.patch_embed, PatchEmbed):
            reason = f"has a {type(net.patch_embed).__name__} in front, in which visible patches see masked ones"
        if reason:
            raise UserError(
                f"method.ssl_masking input: model.backbone '{name}' {reason}; use feature, or a plain ViT or DeiT"
            )

    def forward(self, images: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features of all patches or places; the only pass through B.

        Args:
            images: [B, 3, S, S].
            visible: places of patches, int64 [B, kept]: only these go through, and only their features, behind those of
                the prefix, are returned. For models that `check_input_masking` lets pass.
        """
        if visible is not None:
            return self._forward_visible(images, visible)
        features: torch.Tensor = self.net.forward_features(images)
        if self._unrolled is not None:
            features = self.net.reroll(features, self._unrolled).flatten(1, 2)
        return features

    def _forward_visible(self, images: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Do what timm's VisionTransformer.forward_features does, without the other patches from the blocks on."""
        net = self.net
        tokens = net._pos_embed(net.patch_embed(images))
        patches = gather_patches(tokens[:, self.prefix :], visible)
        tokens = net.norm_pre(torch.cat([tokens[:, : self.prefix], patches], dim=1))
        tokens = checkpoint_seq(net.blocks, tokens) if net.grad_checkpointing else net.blocks(tokens)
        features: torch.Tensor = net.norm(tokens)
        return features

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Return timm's own pooled features [B, pooled_dim]: class token or mean, as the model has it."""
        pooled: torch.Tensor = self.net.forward_head(features, pre_logits=True)
        return pooled


def build_backbone(config: ModelConfig, image_size: int) -> Backbone:
    """Create the timm model that the config names, with random weights.

    Raises:
        UserError: a name that timm does not know, options that the model does not take, or features that no head fits;
            see `timm_options`.
    """
    name = config.backbone
    if not timm.is_model(name):
        raise UserError(f"model.backbone '{name}' is not a model of timm {timm.__version__}{nearest_model(name)}")
    options = timm_options(config, image_size)
    try:
        # What else loads weights is said here too, so that no option can: they may be a stranger's (model.json).
        net = timm.create_model(
            name, pretrained=False, pretrained_cfg=None, checkpoint_path=None, num_classes=0, **options
        )
        return Backbone(net, image_size, name)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"model.backbone '{name}' cannot be built with {given or 'no options'}: {reason}{options_of(name, reason)}"
        ) from error


def timm_options(config: ModelConfig, image_size: int) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` that the config and the image size come to.

    Raises:
        UserError: the patch size does not divide the image size.
    """
    options = dict(config.options)
    pretrained = timm.get_pretrained_cfg(config.backbone)
    if pretrained is not None and pretrained.fixed_input_size:
        options.setdefault("img_size", image_size)
    if config.patch_size is not None:
        if image_size % config.patch_size:
            raise UserError(f"model.patch_size {config.patch_size} does not divide the image size {image_size}")
        options["patch_size"] = config.patch_size
    return options
