"""Served: a model ready to answer, from a run folder or from an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mixdist.data.task import Task
from mixdist.engine.precision import allow_tf32
from mixdist.errors import UserError
from mixdist.runfolder import RunFolder
from mixdist.serving.classifier import FromPixels
from mixdist.serving.description import NAME, read_description
from mixdist.serving.finished_run import read_run
from mixdist.serving.items import View
from mixdist.serving.layouts import Net, layout_module


@dataclass(frozen=True)
class Served:
    """A model on its device, in float32."""

    net: Net
    task: Task
    view: View
    batch: int  #: images of one forward when its run was evaluated
    accuracy: float | None  #: top-1 in percent that its run came to
    device: torch.device

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits float32 [B, classes] on the CPU, of pixels uint8 [B, S, S, 3]."""
        return self.net(pixels.to(self.device)).float().cpu()


def load_model(path: Path) -> Served:
    """Load a model onto the first GPU, or the CPU where there is none.

    Raises:
        UserError: neither a run folder nor an exported model; there is no classifier in it; it is a pt2 model; see
            `read_run`, `read_description` and the layouts.
    """
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    allow_tf32(False, device)
    if (path / NAME).is_file():
        return _exported(path, device)
    if RunFolder(path).config.is_file():
        return _of_run(path, device)
    what = (
        "is neither a run folder (config.yaml) nor an exported model (model.json)"
        if path.exists()
        else "does not exist"
    )
    raise UserError(f"{path} {what}; give what mixdist train or mixdist export has written")


def _of_run(path: Path, device: torch.device) -> Served:
    run = read_run(path)
    _refuse_backbone(path, run.classifies)
    view = View(run.task.image_size, run.config.data.clip_frames)
    net = FromPixels(run.classifier(), run.task).to(device)
    return Served(net, run.task, view, run.config.train.eval_batch, run.result.accuracy, device)


def _exported(path: Path, device: torch.device) -> Served:
    description = read_description(path)
    if description.layout == "pt2":
        raise UserError(
            f"{path} is a pt2 model, whose file may hold pickled objects, which can run code when they are read; give "
            f"the run, or export it --to timm, safetensors or onnx"
        )
    _refuse_backbone(path, description.head != "none")
    view = View(description.task.image_size, description.clip_frames)
    net = layout_module(description.layout).read(path, description, device)
    return Served(net, description.task, view, description.batch, description.accuracy, device)


def _refuse_backbone(path: Path, classifies: bool) -> None:
    if not classifies:
        raise UserError(f"{path} has no classifier, as no supervised epoch trained one; give a run with sl epochs")
