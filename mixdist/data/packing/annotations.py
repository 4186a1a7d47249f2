"""Read a test split in Tiny ImageNet's own layout: images/ and val_annotations.txt."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from mixdist.data.index import UNLABELLED
from mixdist.data.packing.folders import Sample, entries, find_images, leave_out
from mixdist.errors import DataError

ANNOTATIONS = "val_annotations.txt"


def annotated_samples(folder: Path, labels: dict[str, int], left_out: Counter[str]) -> list[Sample]:
    """List the images of ``folder``/images with the labels that ``folder``/val_annotations.txt gives them.

    Args:
        folder: the split's folder.
        labels: class number by class name.
        left_out: counts the other files by extension.

    Raises:
        DataError: a line is malformed or names a missing file or an unknown class, or an image has no line.
    """
    annotations = folder / ANNOTATIONS
    if not (folder / "images").is_dir():
        raise DataError(f"{folder} has {ANNOTATIONS} but no images folder; put the images into {folder / 'images'}")
    images = {
        Path(sample.path).name: sample for sample in find_images(folder / "images", UNLABELLED, left_out, "images/")
    }
    found: dict[str, Sample] = {}
    for line, (file, name) in enumerate(_lines(annotations), start=1):
        if file not in images:
            raise DataError(f"{annotations}, line {line}: {folder / 'images' / file} does not exist or is no image")
        if name not in labels:
            raise DataError(
                f"{annotations}, line {line}: the train folder has no class {name}; add it or remove the line"
            )
        if file in found:
            raise DataError(f"{annotations}, line {line}: {file} has a line already; keep one")
        found[file] = replace(images[file], label=labels[name])
    missing = [file for file in images if file not in found]
    if missing:
        raise DataError(f"{annotations} has no line for {missing[0]} ({len(missing)} such images); add or remove them")
    leave_out([file for file in entries(folder)[1] if file != ANNOTATIONS], left_out)
    return [found[file] for file in images]


def _lines(annotations: Path) -> list[tuple[str, str]]:
    """Return (file, class) of each line; further columns, the bounding box, are not used."""
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{annotations} cannot be read as UTF-8 text: {error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise DataError(f"{annotations}, line {number}: expected FILE<tab>CLASS, found {line!r}")
        pairs.append((columns[0], columns[1]))
    return pairs
