"""Which families of timm models are served, at which image sizes, and why others are not: docs/backbones.md.

    python -m benchmarks.backbones > docs/backbones.md

Of each family (a module of timm) the model with the fewest parameters is built, its groups B, R and C are found, and
one step of the mix phase has to reach exactly them. Ten minutes on one core.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import timm
import torch
from scipy.optimize import linear_sum_assignment
from timm.models import list_modules

from mixdist.config.schema import Config
from mixdist.errors import UserError
from mixdist.model.backbone import Backbone
from mixdist.model.groups import parameter_groups
from mixdist.model.mixmodel import MixModel, build_model

SIZES = (32, 64, 128, 224)
LARGEST = 150e6  # parameters of a model that is tried; of one family even the smallest has more

HEADER = f"""# Which backbones are served

Made by `python -m benchmarks.backbones` with timm {timm.__version__}. Of each family (a module of timm) the model with
the fewest parameters was tried with random weights at {", ".join(map(str, SIZES))} px. "Smallest image" is the first
of these sizes at which a step of the mix phase reached all parameters of B, R and C and no others. "In place" counts
the tokens whose own cell of the image is the one that the reconstruction head writes to, by the gradient of random
weights (where these mix all of the image, it cannot be read off); a map has its order by itself.

A backbone is served where its features are one square grid of tokens (MAE head) or one square map (AE head). Others
end the run at its start, with the reason. Options of a model are `model.options`; a window, a patch size or a
stride may serve smaller images than the defaults do.

| family | model tried | parameters | smallest image | head, features | in place |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Found:
    """What became of one family."""

    family: str
    name: str
    parameters: int
    size: int | None = None  #: smallest that is served
    features: str = ""
    place: str = ""
    reason: str = ""  #: why it is not served


def smallest_model(family: str) -> tuple[str, int]:
    """Return the model of a family with the fewest parameters, and how many those are."""
    counts = {}
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            try:
                net = timm.create_model(name, pretrained=False, num_classes=0)
            except (RuntimeError, NotImplementedError):  # it computes with its weights when it is made
                net = None
        if net is None:
            net = timm.create_model(name, pretrained=False, num_classes=0)
        counts[name] = sum(parameter.numel() for parameter in net.parameters())
    return min(counts.items(), key=lambda item: (item[1], item[0]))


def model_of(name: str, size: int, **model: Any) -> MixModel:
    """Build a model as a run does."""
    return build_model(Config.model_validate({"data": {"sl": "any"}, "model": {"backbone": name, **model}}), size, 3)


def reached(model: MixModel) -> bool:
    """Say whether a forward and backward of the mix phase gives a gradient to exactly the parameters of B, R and C."""
    groups = parameter_groups(model)
    size = model.backbone.image_size
    model.train()
    noise = torch.rand(2, max(1, model.reconstructor.noise_width))
    outputs = model(torch.randn(2, 3, size, size), reconstruct=True, classify=True, noise=noise)
    assert outputs.reconstruction is not None
    assert outputs.logits is not None
    (outputs.reconstruction.square().mean() + outputs.logits.square().mean()).backward()
    driven = {name for names in groups.values() for name in names}
    return driven == {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def places(backbone: Backbone, count: int = 16) -> list[int]:
    """Return for each place of the features, in raster order, the cell of the image that it belongs to.

    It is the assignment of places to cells, one to one, in which places depend most on their cells: by the energy of
    the gradient in each cell, against the mean over all places, as all see the middle of the image more than its
    border. On ``count`` images of noise.
    """
    grid, size = backbone.grid, backbone.image_size
    cell = -(-size // grid)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=generator).requires_grad_()
    _fill_statistics(backbone, images)
    features = backbone(images)
    if backbone.layout == "map":
        rows = features if backbone.channels_last else features.permute(0, 2, 3, 1)
        rows = rows.flatten(1, 2)
    else:
        rows = features[:, backbone.prefix :]
    weights = torch.randn(rows.shape[-1], len(images), generator=generator)
    energies = []
    for place in range(grid * grid):
        (gradient,) = torch.autograd.grad((rows[:, place] * weights.T).sum(), images, retain_graph=True)
        squares = torch.nn.functional.pad(gradient.square().sum((0, 1)), (0, grid * cell - size) * 2)
        energies.append(squares.reshape(grid, cell, grid, cell).sum((1, 3)).flatten())
    energy = torch.stack(energies)  # [places, cells]
    energy = energy / energy.sum(1, keepdim=True).clamp(min=1e-30)
    relative = (energy / energy.mean(0).clamp(min=1e-30)).clamp(min=1e-30).log()
    best: list[int] = linear_sum_assignment(relative.numpy(), maximize=True)[1].tolist()
    return best


def _fill_statistics(backbone: Backbone, images: torch.Tensor) -> None:
    """Give BatchNorm the statistics of images, and leave evaluation mode on: with none, most signals die out."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    backbone.train()
    with torch.no_grad():
        backbone(images)
    backbone.eval()


def try_family(family: str) -> Found:
    """Try the smallest model of a family from the smallest image size on."""
    name, parameters = smallest_model(family)
    if parameters > LARGEST:
        return Found(family, name, parameters, reason="not tried: too large for this page")
    found, reason = None, ""
    for size in SIZES:
        torch.manual_seed(0)
        try:
            model = model_of(name, size)
            served = reached(model)
        except UserError as error:
            reason = str(error)
            continue
        except (RuntimeError, ValueError) as error:  # in training mode: BatchNorm of one value, say
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            continue
        backbone = model.backbone
        if not served:
            reason = "a step of the mix phase reaches other parameters than evaluation does"
            continue
        if found is None:
            head = f"MAE, {backbone.grid}² tokens" if backbone.layout == "tokens" else f"AE, {backbone.grid}² map"
            found = Found(family, name, parameters, size, f"{head} of {backbone.dim}")
        if backbone.layout == "map":
            return found
        if backbone.grid > 1:
            right = sum(place == cell for place, cell in enumerate(places(backbone)))
            place = f"{right} of {backbone.grid**2} at {size} px"
            return Found(family, name, parameters, found.size, found.features, place)
    return found or Found(family, name, parameters, reason=reason)


def row(found: Found) -> str:
    """Return a row of the page's table."""
    size = "not served" if found.size is None else f"{found.size} px"
    told = found.features or found.reason.replace("|", "\\|")
    count = f"{found.parameters / 1e6:.1f} M"
    return f"| `{found.family}` | `{found.name}` | {count} | {size} | {told} | {found.place or '-'} |\n"


def main() -> int:
    """Write the page to standard output, a row at a time."""
    torch.set_num_threads(1)
    sys.stdout.write(HEADER)
    for family in sorted(list_modules()):
        if timm.list_models(module=family):
            sys.stdout.write(row(try_family(family)))
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
