"""A table of the paper by name -> its cells, and those that the filters leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixdist.errors import UserError, nearest
from mixdist.paper.cells import Cell, published

TITLES = {
    "table1": "data limitation, ViT-T",
    "table2": "data limitation, ResNet-18",
    "table3": "SSL on Tiny ImageNet, SL on CIFAR (Eq. 2), ViT-T",
    "table4": "SSL on Tiny ImageNet, SL on CIFAR (Eq. 2), ResNet-18",
    "table5": "loss-ratio α",
    "table6": "mix-ratio ρ",
    "table7": "training epochs, all data",
    "table8": "semi-supervised, half of the labels",
    "table9": "label noise 0.2",
    "table10": "mixup for the baselines",
    "table11": "α annealed",
    "table14": "training epochs, 10 % of the data",
    "table15": "training epochs, 25 % of the data",
    "table16": "training epochs, 50 % of the data",
    "table17": "training epochs, 75 % of the data",
    "figure1": "accuracy against training time, Tiny ImageNet, ViT-T",
}
SETTINGS = ("table12", "table13")  # they hold hyperparameters: mixdist/paper/configs
MEASUREMENTS = ("pass-timing", "gradient-alignment")  # no grid of trainings: commands of their own
FILTERS = {  # option -> the field of a cell that it chooses by
    "dataset": "sl_dataset",
    "fraction": "fraction",
    "arm": "arm",
    "epochs": "epochs",
    "backbone": "backbone",
}


@dataclass(frozen=True)
class Grid:
    """A table or figure of the paper."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        """What it compares, in a few words."""
        return TITLES[self.name]

    def varies(self, field: str) -> bool:
        """Say whether the cells differ in a field."""
        return len({getattr(cell, field) for cell in self.cells}) > 1

    def select(self, wanted: Mapping[str, Sequence[Any] | None]) -> Grid:
        """Return the grid of the cells that match every filter; ``wanted`` holds values by option of `FILTERS`.

        Raises:
            UserError: a value that no cell has, or values that no cell has together.
        """
        cells = self.cells
        for option, values in wanted.items():
            if values is None:
                continue
            field = FILTERS[option]
            there = sorted({getattr(cell, field) for cell in self.cells})
            for value in values:
                if value not in there:
                    known = ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in there)
                    said = f"{value:g}" if isinstance(value, float) else str(value)
                    close = "" if isinstance(value, float) else nearest(said, [str(each) for each in there])
                    hint = "" if option != "epochs" else "; to train for fewer, use --scale"
                    raise UserError(f"--{option} {said} matches no cell of {self.name}, which has {known}{close}{hint}")
            cells = tuple(cell for cell in cells if getattr(cell, field) in values)
        if not cells:
            given = " ".join(f"--{option} {' '.join(map(str, values))}" for option, values in wanted.items() if values)
            raise UserError(f"no cell of {self.name} matches all of {given}; leave a filter out")
        return Grid(self.name, cells)


def grid_of(name: str) -> Grid:
    """Return the grid of "table1" to "table17" or "figure1".

    Raises:
        UserError: there is none of that name.
    """
    if name in SETTINGS:
        raise UserError(
            f"{name} holds the paper's hyperparameters, not results: nothing to train; they are in configs/paper, and "
            f"every other table uses them"
        )
    if name not in TITLES:
        known = [*TITLES, *MEASUREMENTS]
        raise UserError(
            f"'{name}' is no table or figure of the paper{nearest(name, known)}; there are {', '.join(known)}"
        )
    if name == "figure1":
        # 10, 50 and 100 % of the data, 50, 75 and 100 epochs: rows of Tables 14, 16 and 7.
        cells = [cell for table in ("table14", "table16", "table7") for cell in published() if cell.table == table]
        return Grid(name, tuple(cell for cell in cells if cell.sl_dataset == "tiny-imagenet"))
    return Grid(name, tuple(cell for cell in published() if cell.table == name))
