"""What W&B gets besides numbers: pictures of reconstructions, and at the end the confusion matrix and each class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mixdist.runfolder import RunFolder

LARGEST_MATRIX = 100  # classes; a plot of W&B shows 10,000 rows


def picture(wandb: Any, folder: Path, name: str, when: str) -> dict[str, Any]:
    """Return a picture of the run folder, to be logged; its file name holds no path of this machine."""
    caption = f"{when}: original, masked (MAE), rebuilt"
    return {"reconstructions": wandb.Image(str(folder / name), caption=caption)}


def classes(wandb: Any, folder: Path) -> dict[str, Any]:
    """Return accuracy by class, and the confusion matrix of up to ``LARGEST_MATRIX`` classes, to be logged."""
    try:
        content = json.loads(RunFolder(folder).confusion.read_text(encoding="utf-8"))
    except FileNotFoundError:  # no test split, or too many classes
        return {}
    names, counts = content["classes"], content["counts"]
    rows = [[name, accuracy, sum(row)] for name, row, accuracy in zip(names, counts, by_class(counts), strict=True)]
    logged = {"per_class": wandb.Table(columns=["class", "accuracy", "samples"], data=rows)}
    if len(names) <= LARGEST_MATRIX:
        columns = ["Actual", "Predicted", "nPredictions"]
        cells = [[names[i], names[j], count] for i, row in enumerate(counts) for j, count in enumerate(row)]
        logged["confusion"] = wandb.plot_table(
            data_table=wandb.Table(columns=columns, data=cells),
            vega_spec_name="wandb/confusion_matrix/v1",
            fields={column: column for column in columns},
            string_fields={"title": "what test samples are taken for"},
        )
    return logged


def by_class(counts: list[list[int]]) -> list[float | None]:
    """Return the accuracy of each class in percent; None for a class without samples."""
    return [100 * row[label] / sum(row) if sum(row) else None for label, row in enumerate(counts)]
