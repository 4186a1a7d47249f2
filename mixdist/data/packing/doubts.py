"""What a packed set shows of a source that was perhaps another than meant: its classes, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mixdist.data.packing.folders import TEST_NAMES

NAMED = 8  # classes that a line names
LONGEST = 30  # characters of a name in it
WITHOUT_LABEL = ("unlabelled", "unlabeled", "unknown", "unsorted", "nolabel", "no_label")
SPLITS = ("train", "training", *TEST_NAMES)


def classes_line(per_class: dict[str, int]) -> str:
    """Return the first classes with their labelled images, and how many more there are."""
    return _named([f"{_short(name)} {count:,}" for name, count in per_class.items()])


def doubts(manifest: dict[str, Any]) -> list[str]:
    """Return a line for each thing that suggests a wrong folder, or a split that will disappoint."""
    classes, found = manifest["classes"], []
    if len(classes) == 1:
        found.append(
            f"there is one class only ('{_short(classes[0])}'), so nothing to tell apart; where its sub-folders are "
            f"the classes, pack that folder"
        )
    if unlabelled := [name for name in classes if name.lower() in WITHOUT_LABEL]:
        found.append(
            f"packed as a class: {_names(unlabelled)}; unlabelled images are packed as a set of their own for "
            f"--data.ssl, or listed in a table with an empty label (docs/own-images.md)"
        )
    if splits := [name for name in classes if name.lower() in SPLITS]:
        found.append(
            f"packed as a class: {_names(splits)}; splits are folders named train and test, side by side, with the "
            f"class folders in each (docs/data.md)"
        )
    test = manifest["splits"].get("test")
    if test and (untested := [name for name, count in test["per_class"].items() if not count]):
        found.append(f"no test image of {_names(untested)}; add images, or raise --test-fraction")
    return found


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _names(names: Sequence[str]) -> str:
    return _named([_short(name) for name in names])


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
