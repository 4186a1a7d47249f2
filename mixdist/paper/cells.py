"""results.csv: each row of the paper's result tables, a setting and what the paper says came out of it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).with_name("results.csv")


@dataclass(frozen=True)
class Cell:
    """A setting that is trained once a seed; the fields are the columns of results.csv, in their order."""

    table: str  #: "table1"
    backbone: str  #: "vit_tiny" or "resnet18"
    ssl_dataset: str
    sl_dataset: str
    arm: str
    variant: str  #: a key of `settings.VARIANTS`
    fraction: float  #: data limitation p
    epochs: int  #: e_ssl and e_sl
    loss_ratio: float  #: α
    mix_ratio: float  #: ρ
    accuracy: float | None = None  #: the paper's, percent; None where it gives none
    latency_s: float | None = None  #: the paper's, on one RTX 6000 Ada

    @property
    def name(self) -> str:
        """A folder name that tells the cell from all others of its table."""
        sets = self.sl_dataset if self.ssl_dataset == self.sl_dataset else f"{self.ssl_dataset}-to-{self.sl_dataset}"
        parts = [self.backbone, sets, f"p{self.fraction:g}", f"e{self.epochs}"]
        parts += [f"a{self.loss_ratio:g}", f"r{self.mix_ratio:g}"] if self.arm == "mixtraining" else []
        return "-".join([*parts, *([self.variant] if self.variant else []), self.arm])


@cache
def published() -> tuple[Cell, ...]:
    """Return all cells, in the order of the file."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return tuple(_cell(row) for row in csv.DictReader(file))


def _cell(row: dict[str, str]) -> Cell:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return Cell(
        table=f"table{row['table']}",
        backbone=row["backbone"],
        ssl_dataset=row["ssl_dataset"],
        sl_dataset=row["sl_dataset"],
        arm=row["method"],
        variant=row["variant"],
        fraction=float(row["fraction"]),
        epochs=int(row["epochs"]),
        loss_ratio=float(row["loss_ratio"]),
        mix_ratio=float(row["mix_ratio"]),
        accuracy=number("accuracy"),
        latency_s=number("latency_s"),
    )
