"""Export the model of a finished run: written beside its place, read back, compared on images, and only then there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from mixdist.arguments import written
from mixdist.engine.checkpoint.write import TEMPORARY
from mixdist.errors import MixdistError, UserError
from mixdist.files import write_text
from mixdist.serving.card import card
from mixdist.serving.classifier import Classifier, FromPixels
from mixdist.serving.description import Description, describe
from mixdist.serving.finished_run import FinishedRun
from mixdist.serving.layouts import Layout, layout_module

TOLERANCE = 1e-3  # of logits; above the rounding of another order of sums, below what a wrong weight does


@dataclass(frozen=True)
class Exported:
    """An exported model, and how its answers differ from the run's."""

    description: Description
    difference: float  #: largest absolute difference of a logit
    largest: float  #: largest absolute logit of the run's model


def export(run: FinishedRun, layout: Layout, out: Path, license: str, pixels: torch.Tensor) -> Exported:
    """Write the folder ``out``, whole or not at all.

    Args:
        run: whose model.
        layout: what it is written as.
        out: a folder that does not exist.
        license: of the model, for its card.
        pixels: uint8 [B, S, S, 3], images that the written model has to answer as the run's does.

    Raises:
        UserError: ``out`` exists or cannot be written; the run has no classifier and the layout no way to say so; see
            `build_classifier` and the layouts.
        MixdistError: the written model answers differently.
    """
    if out.exists():
        raise UserError(f"{out} exists; remove it, or name another folder with --out")
    if not run.classifies and layout != "timm":
        raise UserError(
            f"{run.folder} has no supervised epoch, so no classifier to serve; --to timm exports its backbone alone"
        )
    net = run.classifier()
    temporary = out.with_name(out.name + TEMPORARY)
    try:
        with written("--out", out):
            shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
            temporary.mkdir(parents=True)
            head = layout_module(layout).write(temporary, run, net)
            description = describe(run, layout, head, license, temporary)
            description.write(temporary)
            exported = _compare(run, net, temporary, description, pixels)
            write_text(temporary / "README.md", card(exported.description, out.resolve().name))
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone where it was renamed
    return exported


def _compare(
    run: FinishedRun, net: Classifier, folder: Path, description: Description, pixels: torch.Tensor
) -> Exported:
    reference = FromPixels(net if run.classifies else _Features(net), run.task)
    written = layout_module(description.layout).read(folder, description, torch.device("cpu"))
    with torch.no_grad():
        expected, found = reference(pixels), written(pixels)
    largest = float(expected.abs().max())
    difference = float((expected - found).abs().max()) if expected.shape == found.shape else float("inf")
    if not difference <= TOLERANCE * max(1.0, largest):
        raise MixdistError(
            f"the {description.layout} model answers differently than the model of {run.folder}: logits differ by up "
            f"to {difference:.2g}, where the largest is {largest:.2g}; nothing was written"
        )
    return Exported(description, difference, largest)


class _Features(torch.nn.Module):
    """A backbone alone, which answers with its pooled features."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net.features(images)
