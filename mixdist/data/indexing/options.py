"""The options of `mixdist index`; docs/data.md describes each."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from mixdist.arguments import refuse_below_one, refuse_seed
from mixdist.errors import UserError


@dataclass(frozen=True)
class IndexOptions:
    """How tars become a set."""

    train: str | None = None  #: pattern of the train shards; None: all that are not test shards
    test: str | None = None  #: pattern of the test shards; None: by their names
    test_fraction: float | None = None  #: share of each class of train that forms "test"
    seed: int = 0  #: decides the test share
    image: str | None = None  #: extension of the image where samples hold several; None: the only one
    label_field: str | None = None  #: dotted path in the .json members; None: no labels from them
    label_text: bool = False  #: labels are the text of the .txt members
    classes: Path | None = None  #: file of the class names, one a line; None: what the labels say
    rename_doubled: bool = False  #: keep samples of one key in several shards, under numbered keys
    skip_bad: bool = False
    overwrite: bool = False
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    def check(self) -> None:
        """Refuse values out of range with a ``UserError``."""
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UserError(f"--test-fraction {self.test_fraction} is out of range; it should be above 0, below 1")
        if self.test_fraction is not None and self.test is not None:
            raise UserError("--test-fraction contradicts --test, which already names the test shards; drop one")
        refuse_seed(self.seed)
        if self.label_field is not None and self.label_text:
            raise UserError("--label-field and --label-text both say where labels are; drop one")
        refuse_below_one(workers=self.workers)

    @property
    def label_extension(self) -> str:
        """The extension of the member that holds a sample's label."""
        if self.label_field is not None:
            return "json"
        return "txt" if self.label_text else "cls"
