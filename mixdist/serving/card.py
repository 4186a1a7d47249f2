"""The model card: README.md of an exported model, in the layout that model hubs read."""

from __future__ import annotations

import yaml

from mixdist.serving.description import Description

MAX_CLASSES = 20  # that the card lists; model.json has all


def card(description: Description, name: str) -> str:
    """Return the card of a model that is called ``name``."""
    front = {
        "license": description.license,
        "library_name": "timm" if description.layout == "timm" else "mixdist",
        "pipeline_tag": "image-classification" if description.head != "none" else "image-feature-extraction",
        "tags": ["mixdist", "trained-from-scratch", description.backbone],
    }
    sections = [_summary(description), "## Use", _use(description), "## Training", _training(description)]
    text = "\n\n".join([f"# {name}", *sections])
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text}\n"


def _summary(description: Description) -> str:
    task = description.task
    shown = ", ".join(task.classes[:MAX_CLASSES])
    more = f" and {len(task.classes) - MAX_CLASSES} more (model.json)" if len(task.classes) > MAX_CLASSES else ""
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| architecture | {description.backbone} (timm), {task.image_size} px |",
            f"| classes | {_cell(shown)}{more} |",
            f"| top-1 on the test split | {_percent(description.accuracy)} |",
            f"| top-5 on the test split | {_percent(description.top5)} |",
            f"| data | {_cell(task.data)}, fingerprint `{task.fingerprint}` |",
            f"| training images | {description.labelled} labelled, {description.unlabelled} more without a label |",
            f"| licence | {description.license} |",
        ]
    )


def _use(description: Description) -> str:
    """Say how the files are read, for each layout."""
    size = description.task.image_size
    pixels = (
        f"Images are RGB, scaled (bicubic, antialiased) so that the shorter side has {size} pixels, and cropped at the "
        f"centre. `mixdist predict` does so, and takes this folder."
    )
    inside = f"Input `pixels`: uint8 [batch, {size}, {size}, 3]; the normalisation is inside. Output: logits."
    mean, std = (
        ", ".join(f"{value:.6g}" for value in values) for values in (description.task.mean, description.task.std)
    )
    outside = f"Pixels in 0 to 1 minus mean ({mean}), over std ({std}), for R, G and B."
    apart = " The head is apart: head.safetensors, a linear layer on the pooled features."
    how = {
        "timm": f'`timm.create_model("local-dir:FOLDER", pretrained=True)`; another `img_size` is resampled by timm. '
        f"{outside}{apart if description.head == 'separate' else ''}",
        "safetensors": f"`backbone.net.` is timm's model by its own names, `classifier.` the head. {outside}",
        "onnx": inside,
        "pt2": f'`torch.export.load("model.pt2").module()`. {inside}',
    }[description.layout]
    return f"{how}\n\n{pixels}"


def _training(description: Description) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in description.trained_with.items() if version)
    averaged = " The weights are their moving average." if description.averaged else ""
    settings = "\n".join(f"{key}: {value}" for key, value in description.config.items())
    return (
        f"Trained from scratch by mixdist: arm `{description.arm}`, seed {description.seed}, plan "
        f"`{description.plan}`, with {versions}.{averaged}\n\n```\n{settings}\n```"
    )


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} %"


def _cell(text: str) -> str:
    """Return text that stays in one cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
