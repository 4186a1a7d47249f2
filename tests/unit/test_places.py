"""The reconstruction head puts pixels where their features come from: two halves, backbone and head, each a family."""

from types import SimpleNamespace

import pytest
import torch
from tiny_run import FAMILIES, MORE_FAMILIES, family_model

from benchmarks.backbones import places
from mixdist.config.method_section import ModelConfig
from mixdist.model.heads import build_reconstructor

# Random depthwise 5 x 5 filters over a last map of 4 x 4 see all of its places alike: nothing can be read off.
# MaxViT, whose attention is that of the others, would take ten seconds.
LEFT_OUT = {"mobilenetv3", "maxvit"}
AT_128 = {"resnet", "resnetv2", "convnext", "efficientnet", "regnet", "efficientvit"}  # the stride is 32 or more


@pytest.mark.parametrize("family", sorted((FAMILIES.keys() | MORE_FAMILIES.keys()) - LEFT_OUT))
def test_each_place_of_the_features_depends_most_on_its_own_cell_of_the_image(family):
    backbone = family_model(family, 128 if family in AT_128 else 32).backbone
    assert backbone.grid >= 2
    assert places(backbone, count=4) == list(range(backbone.grid**2))


def test_the_tokens_of_hiera_as_timm_has_them_are_not_in_raster_order():
    backbone = family_model("hiera").backbone
    backbone._unrolled = None
    assert sorted(places(backbone, count=4)) == list(range(16))
    assert places(backbone, count=4) != list(range(16))


@pytest.mark.parametrize("layout", ["tokens", "map", "channels_last"])
def test_the_head_puts_what_one_place_says_into_its_own_cell(layout):
    grid, cell, dim, prefix = 3, 4, 8, 2 if layout == "tokens" else 0
    kind = SimpleNamespace(
        layout="tokens" if layout == "tokens" else "map",
        channels_last=layout == "channels_last",
        prefix=prefix,
        grid=grid,
        dim=dim,
        image_size=grid * cell,
    )
    head = build_reconstructor(kind, ModelConfig(decoder_heads=2), 0.1)  # masks one patch of nine
    if layout == "tokens":
        head.blocks = torch.nn.Identity()
    shape = {"tokens": (1, prefix + 9, dim), "map": (1, dim, 3, 3), "channels_last": (1, 3, 3, dim)}[layout]
    features = torch.randn(shape, requires_grad=True)
    reconstruction, _ = head(features, torch.zeros(1, 3, 12, 12), torch.linspace(1, 0, 9)[None])  # masks the first
    for place in range(1, 9):
        row, column = divmod(place, grid)
        pixels = reconstruction[0, :, row * cell :, column * cell :][:, :cell, :cell]
        (gradient,) = torch.autograd.grad(pixels.square().sum(), features, retain_graph=True)
        rows = gradient[0, prefix:] if layout == "tokens" else gradient[0].reshape(dim, 9).T
        rows = gradient.reshape(9, dim) if layout == "channels_last" else rows
        assert rows.abs().sum(1).nonzero().flatten().tolist() == [place]
