"""A cell of a grid and a seed -> the settings of the run: the paper's, those of the cell, and what the user changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from math import ceil
from pathlib import Path
from typing import Any

from mixdist.paper.cells import Cell
from mixdist.paper.command_line import read_settings
from mixdist.paper.grid import Grid

CONFIGS = Path(__file__).with_name("configs")
MIXUP = 1.0  # Beta(1, 1); the paper does not give it, Zhang et al. (2017) use it on CIFAR-10
LABELLED, NOISE = 0.5, 0.2  # Sec. 4.4.1 and 4.4.2

VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "semi-supervised": {"data.labelled_fraction": LABELLED},
    "label-noise": {"data.label_noise": NOISE},
    "mixup": {"train.mixup": MIXUP},
    "alpha-linear": {"method.loss_ratio_schedule": "linear"},
    "alpha-cosine": {"method.loss_ratio_schedule": "cosine"},
}
PLACES = ("seed", "run.dir", "data.sl", "data.ssl", "data.fraction", "method.arm")  # what says which run it is
CLASS_IMAGES = 2  #: images that a shortened run keeps of the rarest class: one of them labelled where half are
FIELDS = {  # settings that a cell decides -> its field
    "method.ssl_epochs": "epochs",
    "method.sl_epochs": "epochs",
    "method.loss_ratio": "loss_ratio",
    "method.mix_ratio": "mix_ratio",
}


@dataclass(frozen=True)
class Scale:
    """How much a grid is shortened; 1 is the paper's own size."""

    share: float
    least_epochs: int  #: so that every arm keeps its phases
    rarest: Mapping[str, int]  #: training images of the smallest class, by set; also of a D_ssl that no arm reads

    def shorten(self, cell: Cell) -> Cell:
        """Return the cell with its epochs and data shortened; at 1 as it is. All arms of a row have the same share."""
        if self.share == 1:
            return cell
        share = Decimal(str(self.share))
        epochs = int((cell.epochs * share).quantize(Decimal(1), ROUND_HALF_UP))
        fewest = min(self.rarest[name] for name in (cell.sl_dataset, cell.ssl_dataset))
        fraction = max(float(Decimal(str(cell.fraction)) * share), CLASS_IMAGES / fewest)
        return replace(cell, epochs=min(cell.epochs, max(epochs, self.least_epochs)), fraction=min(fraction, 1.0))


def scale_of(grid: Grid, share: float, rarest: Mapping[str, int]) -> Scale:
    """Return the scale of a grid.

    Args:
        grid: with all of its cells, so that a filter does not change what the others are.
        share: what --scale says.
        rarest: training images of the smallest class, by set; of the sets of all arms of a row.
    """
    ratios = [Decimal(str(cell.mix_ratio)) for cell in grid.cells if cell.mix_ratio]
    return Scale(share, max((ceil(1 / ratio) for ratio in ratios), default=1), rarest)


def sets_of(cells: Sequence[Cell]) -> list[str]:
    """Return the sets that the cells read, each once; an arm without SSL reads no D_ssl."""
    names = [name for cell in cells for name in (cell.sl_dataset, "" if cell.arm == "sl" else cell.ssl_dataset)]
    return [name for name in dict.fromkeys(names) if name]


def config_file(cell: Cell) -> Path:
    """Return the file with the settings of Table 12, Table 13 or A.3 that the cell's sets and backbone take."""
    data = "tiny_imagenet" if cell.sl_dataset == "tiny-imagenet" else "cifar10"
    return CONFIGS / f"{cell.backbone}_{data}.yaml"


def settings_of(cell: Cell, seed: int, sets: Mapping[str, str], run: Path, scaled: bool) -> dict[str, Any]:
    """Return what a run changes of `config_file`, by dotted key.

    Args:
        cell: as it is trained, shortened or not.
        seed: of the run.
        sets: where each set of the cell lies.
        run: folder of the run.
        scaled: whether the cell was shortened: every class keeps images then, and only the end is evaluated.
    """
    # An arm without SSL reads no D_ssl, so that the rows `sl` of Tables 3 and 4 need no Tiny ImageNet.
    apart = cell.ssl_dataset != cell.sl_dataset and cell.arm != "sl"
    return {
        "data.sl": sets[cell.sl_dataset],
        **({"data.ssl": sets[cell.ssl_dataset]} if apart else {}),
        "data.fraction": cell.fraction,
        "method.arm": cell.arm,
        **{key: getattr(cell, field) for key, field in FIELDS.items()},
        **VARIANTS[cell.variant],
        **({"data.stratified": True, "train.eval_every": 2 * cell.epochs} if scaled else {}),
        "seed": seed,
        "run.dir": str(run),
    }


def read_changes(words: Sequence[str], grid: Grid) -> dict[str, str]:
    """Read the settings after ``--``, which every run of the grid is given; return them by dotted key.

    Raises:
        UserError: see `read_settings`; one that says which run it is, or that the grid compares.
    """
    refused = dict.fromkeys(PLACES, f"{grid.name} decides it; use the filters, --data or --out")
    varied = [key for key, field in FIELDS.items() if grid.varies(field)]
    if grid.varies("variant"):
        varied += [key for cell in grid.cells for key in VARIANTS[cell.variant]]
    refused |= dict.fromkeys(varied, f"it is what {grid.name} compares; choose rows by a filter")
    return read_settings(words, refused)
