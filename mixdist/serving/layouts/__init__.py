"""The layouts that a model is exported in: each writes its files, and reads them back as pixels -> logits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import torch

if TYPE_CHECKING:
    from mixdist.serving.classifier import Classifier
    from mixdist.serving.description import Description
    from mixdist.serving.finished_run import FinishedRun

Layout = Literal["timm", "safetensors", "onnx", "pt2"]
Head = Literal["inside", "separate", "none"]
Net = Callable[[torch.Tensor], torch.Tensor]  # pixels uint8 [B, S, S, 3] on its device -> logits float32 [B, classes]


LAYOUTS: dict[Layout, str] = {
    "timm": "mixdist.serving.layouts.timm_names",
    "safetensors": "mixdist.serving.layouts.own_names",
    "onnx": "mixdist.serving.layouts.onnx_graph",
    "pt2": "mixdist.serving.layouts.exported_program",
}


class LayoutModule(Protocol):
    """What a module of this package offers."""

    @staticmethod
    def write(folder: Path, run: FinishedRun, net: Classifier) -> Head:
        """Write the model's files; return where the classification head is."""

    @staticmethod
    def read(folder: Path, description: Description, device: torch.device) -> Net:
        """Read them; without a head, the answers are pooled features."""


def layout_module(layout: Layout) -> LayoutModule:
    """Import the module of a layout, as each needs other packages."""
    return cast(LayoutModule, importlib.import_module(LAYOUTS[layout]))
