"""pt2: what torch.export makes of the model, which torch runs without mixdist and timm, and AOTInductor compiles."""

from __future__ import annotations

from pathlib import Path

import torch

from mixdist.errors import UserError
from mixdist.serving.classifier import Classifier, FromPixels
from mixdist.serving.description import Description
from mixdist.serving.finished_run import FinishedRun
from mixdist.serving.layouts import Head, Net

FILE = "model.pt2"
EXAMPLES = 2  # images that it is traced with; of one, torch would take the batch for a constant


def write(folder: Path, run: FinishedRun, net: Classifier) -> Head:
    """Write the program, its weights inside."""
    size = run.task.image_size
    pixels = torch.zeros(EXAMPLES, size, size, 3, dtype=torch.uint8)
    program = torch.export.export(
        FromPixels(net, run.task), (pixels,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, folder / FILE)
    return "inside"


def read(folder: Path, description: Description, device: torch.device) -> Net:
    """Read the program, which may run code that its file holds: only where it was just written.

    Raises:
        UserError: this torch cannot read it.
    """
    try:
        program = torch.export.load(folder / FILE)
    except Exception as error:  # whatever its reading ran into
        made_with = description.exported_with["torch"]
        raise UserError(
            f"{folder / FILE} cannot be read by torch {torch.__version__}; it was made with torch {made_with}"
        ) from error
    return program.module().to(device)
