"""Recognise what `mixdist pack` is given, and list its splits, classes and samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from mixdist.data.faults import Fault
from mixdist.data.index import UNLABELLED
from mixdist.data.packing.annotations import ANNOTATIONS, annotated_samples
from mixdist.data.packing.digits import CLASSES, digit_samples
from mixdist.data.packing.folders import (
    IMAGE_SUFFIXES,
    TEST_NAMES,
    Sample,
    entries,
    find_images,
    is_image,
    is_video,
    leave_out,
)
from mixdist.data.packing.keys import unique_keys
from mixdist.data.packing.reading import NOTHING_SAID, Reading
from mixdist.data.packing.tables import TABLE_SUFFIXES, is_table, read_table
from mixdist.data.packing.torchvision_sets import PREFIX, torchvision_set
from mixdist.errors import UserError, nearest

DIGITS = "digits"


@dataclass(frozen=True)
class Source:
    """The samples of a source by split, before any is read or moved."""

    kind: str  #: "class-folders", "split-folders", "flat-folder", "table", "torchvision" or "digits"
    name: str  #: the folder's or table's own name, that of the torchvision set, or "digits"
    classes: tuple[str, ...]  #: names by number; empty where nothing is labelled
    splits: dict[str, list[Sample]]  #: "train", and "test" where the source has one
    left_out: Counter[str]  #: files that are no images, by extension
    faults: tuple[Fault, ...] = ()  #: what was to be a sample and cannot be used


def is_place(source: str) -> bool:
    """Tell whether a source is a folder or file, and not a data set by name."""
    return source != DIGITS and not source.startswith(PREFIX)


def read_source(source: str, reading: Reading = NOTHING_SAID) -> Source:
    """List what a source holds, by its layout (docs/data.md); no image is read.

    Raises:
        UserError: there is no such source, it holds no images, its layout is ambiguous or contradicts itself, or
            ``reading`` has an option that this kind of source does not take.
    """
    if source.startswith(PREFIX):
        reading.refuse_all_but(source, "root", "download")
        name = source.removeprefix(PREFIX)
        return Source("torchvision", name, *torchvision_set(name, reading), Counter())
    if is_table(source) and not Path(source).is_dir():
        reading.refuse_all_but(source, "root", "path_column", "label_column")
        classes, splits, faults = read_table(Path(source), reading)
        found = Source("table", Path(source).name, classes, splits, Counter(), faults)
    else:
        reading.refuse_all_but(source)
        if source == DIGITS:
            return Source(DIGITS, DIGITS, CLASSES, {"train": digit_samples()}, Counter())
        found = _folder(source)
    return replace(found, splits={name: _with_keys(samples) for name, samples in found.splits.items()})


def _with_keys(samples: list[Sample]) -> list[Sample]:
    keys = unique_keys(sample.key for sample in samples)
    return [replace(sample, key=key) for key, sample in zip(keys, samples, strict=True)]


def _folder(source: str) -> Source:
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(
            f"SOURCE {source} is not a folder; give a folder of images, a table ({', '.join(TABLE_SUFFIXES)}), "
            f"{PREFIX}NAME or the word '{DIGITS}'{nearest(source, [DIGITS])}"
        )
    folders, files = entries(folder)
    images = [file for file in files if is_image(file) or is_video(file)]
    held_out = [name for name in TEST_NAMES if name in folders]
    if "train" in folders and held_out:
        return _split_folders(folder, folders, files)
    if folders and set(folders) <= {"train", *TEST_NAMES}:
        missing = "train" if "train" not in folders else "test (or val, valid, validation)"
        raise UserError(
            f"{folder} has a {folders[0]} folder but no {missing} folder; "
            f"add it, or pack {folder / folders[0]} to split that by --test-fraction"
        )
    if folders:
        classes, samples, left_out = _train_tree(folder)
        return Source("class-folders", folder.resolve().name, classes, {"train": samples}, left_out)
    if not images:
        raise UserError(f"{folder} holds no images; looked for {' '.join(IMAGE_SUFFIXES)}")
    left_out = Counter()
    samples = list(find_images(folder, UNLABELLED, left_out))
    return Source("flat-folder", folder.resolve().name, (), {"train": samples}, left_out)


def _split_folders(folder: Path, folders: list[str], files: list[str]) -> Source:
    chosen, passed_over = _test_folder(folder, [name for name in TEST_NAMES if name in folders])
    others = [f"{name}/" for name in folders if name not in ("train", chosen, *passed_over)]
    others += [file for file in files if is_image(file)]
    if others:
        raise UserError(
            f"{folder} has the folders train and {chosen}, so it should hold no other images or folders; "
            f"it also has {', '.join(others[:3])}"
        )
    classes, train, left_out = _train_tree(folder / "train")
    labels = {name: label for label, name in enumerate(classes)}
    test = _test_tree(folder / chosen, labels, left_out)
    for name in passed_over:
        left_out[f"in {name}/ (no labels)"] += sum(1 for _ in find_images(folder / name, UNLABELLED, left_out))
    leave_out(files, left_out)
    return Source("split-folders", folder.resolve().name, classes, {"train": train, "test": test}, left_out)


def _test_folder(folder: Path, held_out: list[str]) -> tuple[str, list[str]]:
    """Choose the folder that becomes the test split, and name those passed over."""
    annotated = [name for name in held_out if (folder / name / ANNOTATIONS).is_file()]
    if len(annotated) == 1 and set(held_out) == {"test", *annotated}:
        # Tiny ImageNet as distributed also has test/, whose labels were never published: val/ is what is tested on.
        return annotated[0], [name for name in held_out if name not in annotated]
    if len(held_out) > 1:
        raise UserError(f"{folder} has more than one folder to test on ({', '.join(held_out)}); keep one")
    return held_out[0], []


def _train_tree(folder: Path) -> tuple[tuple[str, ...], list[Sample], Counter[str]]:
    classes = entries(folder)[0]
    unprintable = [name for name in classes if not name.isprintable()]
    if unprintable:
        raise UserError(f"class folder {unprintable[0]!r} in {folder} is not printable text; rename it")
    left_out: Counter[str] = Counter()
    samples = _class_folders(folder, {name: label for label, name in enumerate(classes)}, left_out)
    return tuple(classes), samples, left_out


def _test_tree(folder: Path, labels: dict[str, int], left_out: Counter[str]) -> list[Sample]:
    folders, _ = entries(folder)
    if (folder / ANNOTATIONS).is_file() and set(folders) <= {"images"}:
        return annotated_samples(folder, labels, left_out)
    unknown = [name for name in folders if name not in labels]
    if unknown:
        raise UserError(
            f"class {unknown[0]} is in {folder} but not in the train folder; add train images of it or remove it"
            + (f" (and {len(unknown) - 1} more classes)" if len(unknown) > 1 else "")
        )
    return _class_folders(folder, labels, left_out)


def _class_folders(folder: Path, labels: dict[str, int], left_out: Counter[str]) -> list[Sample]:
    folders, files = entries(folder)
    images = [file for file in files if is_image(file)]
    if images and folders:
        raise UserError(
            f"{folder} holds both images ({images[0]}) and folders ({folders[0]}/), which is ambiguous: put every "
            f"image into a class folder, or all into one folder without sub-folders"
        )
    if not folders:
        raise UserError(f"{folder} holds no class folders; put the images of each class into a folder named after it")
    samples: list[Sample] = []
    empty = []
    for name in folders:
        found = list(find_images(folder / name, labels[name], left_out, f"{name}/"))
        samples += found
        if not found:
            empty.append(name)
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise UserError(
            f"no images in these class folders of {folder}: {', '.join(empty[:5])}{more}; fill or remove them "
            f"(looked for {' '.join(IMAGE_SUFFIXES)})"
        )
    leave_out(files, left_out)
    return samples
