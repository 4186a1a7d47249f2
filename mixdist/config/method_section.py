"""Settings of the method and of the model that it trains."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mixdist.config.section import Section


class MethodConfig(Section):
    """Algorithm 1 and Eq. 1 to 3 of the paper."""

    arm: Literal["sl", "ssl+sl", "mixtraining"] = Field("mixtraining", description="what is trained (docs/method.md)")
    ssl_epochs: int = Field(100, ge=0, description="e_ssl")
    sl_epochs: int = Field(100, ge=0, description="e_sl")
    mix_ratio: float = Field(0.5, ge=0, le=1, description="ρ of Eq. 1: e_mix = floor(ρ · min(e_ssl, e_sl))")
    loss_ratio: float = Field(0.5, gt=0, lt=1, description="α of Eq. 3, weight of the SSL loss in the mix phase")
    loss_ratio_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="constant: α is loss_ratio; else annealed over the mix phase (Sec. 4.4.4)"
    )
    loss_ratio_start: float = Field(1.0, ge=0, le=1, description="where an annealed α comes from (never reached)")
    loss_ratio_end: float = Field(0.0, ge=0, le=1, description="where an annealed α goes to (never reached)")
    input_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="λ of Eq. 2, share of x_sl in x_mix; default: 0.5 where D_ssl is another set, or the unlabelled "
        "images alone; 1 where it is the same set, labelled or not: x_mix = x_sl",
    )
    mix_samples: Literal["labelled", "all"] = Field(
        "labelled",
        description="images of a MIX epoch. labelled: those of D_sl, as in the paper; all: the whole of D_ssl, where "
        "that is the same set, and the classification loss over those with a label, beyond the paper (docs/mix-all.md)",
    )
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of patch features masked before the MAE decoder")
    ssl_masking: Literal["feature", "input"] = Field(
        "feature",
        description="where SSL phases mask. feature: behind the backbone, as MIX has to (A.2); input: before it, so "
        "that only visible patches go through a plain ViT (He et al. 2022), beyond the paper (docs/input-masking.md)",
    )


class ModelConfig(Section):
    """Backbone B and reconstruction head R; the classification head C is linear."""

    backbone: str = Field("vit_tiny_patch16_224", description="name of a timm model: tokens (ViT) or a feature map")
    patch_size: int | None = Field(None, ge=1, description="patch size of a ViT; default: the one in its name")
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of timm.create_model, as YAML: '{depth: 4, embed_dim: 64}'"
    )
    decoder_depth: int = Field(2, ge=1, description="blocks of the MAE decoder")
    decoder_dim: int | None = Field(
        None, ge=1, description="width of the decoder; default: the backbone's, or the next that its heads divide"
    )
    decoder_heads: int = Field(3, ge=1, description="attention heads of the MAE decoder")
