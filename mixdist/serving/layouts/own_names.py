"""safetensors: backbone and head by the names that they have in mixdist's checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from mixdist.config.method_section import ModelConfig
from mixdist.serving.classifier import Classifier, FromPixels, build_classifier
from mixdist.serving.description import Description
from mixdist.serving.finished_run import FinishedRun
from mixdist.serving.layouts import Head, Net

FILE = "model.safetensors"


def write(folder: Path, run: FinishedRun, net: Classifier) -> Head:
    """Write the weights."""
    write_weights(folder / FILE, net)
    return "inside"


def read(folder: Path, description: Description, device: torch.device) -> Net:
    """Read the weights into a network that this timm builds. Raises as `build_classifier`."""
    weights = load_file(folder / FILE)
    model = ModelConfig(backbone=description.backbone, options=description.options)
    timm = str(description.trained_with["timm"])
    net = build_classifier(model, description.task.image_size, weights, timm, f"the model in {folder}")
    return FromPixels(net, description.task).to(device)


def write_weights(path: Path, net: nn.Module) -> None:
    """Write the weights of a network, whole: safetensors' own writer lets nobody but the user read the file."""
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, {"format": "pt"}))
