"""timm: the weights by timm's own names, the head in timm's own classifier, beside the config.json that timm reads.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens such a folder, at another ``img_size`` too: timm's own
filters resample what depends on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from mixdist.errors import UserError, nearest
from mixdist.files import write_json
from mixdist.model.backbone import timm_options
from mixdist.serving.classifier import Classifier, FromPixels, timm_as_trained
from mixdist.serving.description import Description
from mixdist.serving.finished_run import FinishedRun
from mixdist.serving.layouts import Head, Net
from mixdist.serving.layouts.own_names import FILE, write_weights

HEAD_FILE = "head.safetensors"  # where timm's model has no place for ours
TOLERANCE = 1e-4  # of logits, for the same sums in another order


def write(folder: Path, run: FinishedRun, net: Classifier) -> Head:
    """Write weights and config.json, the head apart where timm's model has no linear classifier at its end."""
    options = timm_options(run.config.model, run.task.image_size)
    whole = _with_head(run, net, options) if run.classifies else None
    model = net.backbone.net if whole is None else whole
    write_weights(folder / FILE, model)
    write_json(folder / "config.json", _config(run, model, options))
    if whole is None and run.classifies:
        write_weights(folder / HEAD_FILE, net.classifier)
    return "inside" if whole is not None else "separate" if run.classifies else "none"


def read(folder: Path, description: Description, device: torch.device) -> Net:
    """Read the weights into a model of this timm, strictly.

    Raises:
        UserError: this timm does not know the model, or builds another one than was trained.
    """
    classes = len(description.task.classes) if description.head == "inside" else 0
    with timm_as_trained(str(description.trained_with["timm"]), f"the model in {folder}"):
        net = _create(description.backbone, classes, description.options)
        net.load_state_dict(load_file(folder / FILE))
    if description.head == "separate":
        weights = load_file(folder / HEAD_FILE)
        head = nn.Linear(weights["weight"].shape[1], len(weights["weight"]))
        head.load_state_dict(weights)
        net = nn.Sequential(net, head)
    return FromPixels(net.eval().requires_grad_(False), description.task).to(device)


def _with_head(run: FinishedRun, net: Classifier, options: dict[str, Any]) -> nn.Module | None:
    """Return timm's model with our head as its classifier, None where that does not give our logits."""
    model = _create(run.config.model.backbone, net.classifier.out_features, options).eval()
    state = model.state_dict()
    names = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr,operator]
    heads = {f"{name}.{part}" for name in ([names] if isinstance(names, str) else names) for part in ("weight", "bias")}
    ours = {f"{head}": getattr(net.classifier, head.rpartition(".")[2]) for head in heads & state.keys()}
    if heads - state.keys() or any(ours[head].numel() != state[head].numel() for head in heads):
        return None
    own = net.backbone.net.state_dict()
    if own.keys() | heads != state.keys():
        return None
    model.load_state_dict({**own, **{head: ours[head].reshape(state[head].shape) for head in heads}})
    size = run.task.image_size
    probe = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(probe)
        same = torch.allclose(model(probe), expected, atol=TOLERANCE * max(1.0, float(expected.abs().max())))
    return model if same else None


def _create(backbone: str, classes: int, options: dict[str, Any]) -> nn.Module:
    """Create a timm model with random weights, whatever the options say: model.json may be a stranger's.

    Raises:
        UserError: this timm does not know it; a hub's models have other names.
    """
    if not timm.is_model(backbone):
        raise UserError(f"'{backbone}' is not one of its models{nearest(backbone, timm.list_models())}")
    net: nn.Module = timm.create_model(
        backbone, pretrained=False, pretrained_cfg=None, checkpoint_path=None, num_classes=classes, **options
    )
    return net


def _config(run: FinishedRun, model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Return what timm's loader of local folders and of its hub reads."""
    known: Any = model.pretrained_cfg
    classes, size = int(model.num_classes), run.task.image_size  # type: ignore[arg-type]
    kept = {key: known[key] for key in ("fixed_input_size", "first_conv", "classifier") if known.get(key) is not None}
    return {
        "architecture": run.config.model.backbone,
        "num_classes": classes,
        "num_features": model.num_features,
        "model_args": options,
        **({"label_names": list(run.task.classes)} if classes else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, size, size],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(run.task.mean),
            "std": list(run.task.std),
            "num_classes": classes,
            **kept,
        },
    }
