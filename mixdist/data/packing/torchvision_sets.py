"""Data sets that torchvision knows by name, with the splits their authors made."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import numpy as np

from mixdist.data.packing.folders import Sample
from mixdist.data.packing.reading import Reading
from mixdist.data.packing.reencode import lossless
from mixdist.errors import UserError, nearest

PREFIX = "torchvision:"

_FLAG = ({"train": True}, {"train": False})


def _named(train: str, test: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"split": train}, {"split": test}


# The arguments that choose train and test; a set without a test split of its own has one entry.
SETS: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), _FLAG),
    **dict.fromkeys(("Country211", "DTD", "Flowers102", "Food101", "StanfordCars", "SVHN"), _named("train", "test")),
    "FGVCAircraft": _named("trainval", "test"),
    **dict.fromkeys(("ImageNet", "Imagenette"), _named("train", "val")),
    "Places365": _named("train-standard", "val"),
    "STL10": _named("train+unlabeled", "test"),
    **dict.fromkeys(("EuroSAT", "SEMEION", "SUN397"), ({},)),
}


def torchvision_set(name: str, reading: Reading) -> tuple[tuple[str, ...], dict[str, list[Sample]]]:
    """List the classes and, by split, the samples of the torchvision data set ``name``; no image is encoded.

    Sets that torchvision holds as decoded pixels are encoded as PNG one by one, as packing goes; sets of image files
    are taken file by file.

    Raises:
        UserError: torchvision has no such set of images with classes, or the set is not in ``reading.root``.
    """
    if name not in SETS:
        named = {each.lower(): each for each in SETS}
        raise UserError(
            f"{PREFIX}{name} is not a set that can be packed{nearest(named.get(name.lower(), name), list(SETS))}; "
            f"these can: {', '.join(sorted(SETS))}"
        )
    if reading.root is None:
        raise UserError(f"{PREFIX}{name} needs --root DIR, the folder that holds the set (or will, with --download)")
    splits: dict[str, list[Sample]] = {}
    classes: tuple[str, ...] = ()
    for split, arguments in zip(("train", "test"), SETS[name], strict=False):
        dataset = _open(name, reading, arguments)
        labels = _labels(dataset)
        classes = classes or _classes(dataset, labels)
        files = _takes(name, "loader", "kwargs")
        splits[split] = [_sample(dataset, name, row, label, files) for row, label in enumerate(labels)]
    return classes, splits


def _takes(name: str, *parameters: str) -> bool:
    """Tell whether the set's constructor has one of these parameters."""
    return bool(set(parameters) & set(inspect.signature(_constructor(name)).parameters))


def _constructor(name: str) -> Any:
    from torchvision import datasets  # seconds to import, and no other source needs it

    return getattr(datasets, name)


def _open(name: str, reading: Reading, arguments: dict[str, Any]) -> Any:
    if _takes(name, "loader", "kwargs"):
        arguments = {**arguments, "loader": str}  # gives the image's path in place of its pixels
    if _takes(name, "download"):
        arguments = {**arguments, "download": reading.download}
        advice = "name the folder that holds it by --root, or add --download"
    elif reading.download:
        raise UserError(f"torchvision cannot download {name}; put it into --root {reading.root}, without --download")
    else:
        advice = "name the folder that holds it by --root"
    try:
        return _constructor(name)(reading.root, **arguments)
    except ImportError as error:
        raise UserError(f"{PREFIX}{name} needs {error.name}: pip install {error.name}") from error
    except Exception as error:  # torchvision's readers and its downloads raise a dozen types
        reason = str(error).strip().split("\n")[0].split(" You can use download=True")[0].rstrip(".")
        if reading.download:
            raise UserError(f"{PREFIX}{name} cannot be downloaded to {reading.root}: {reason}; try again") from error
        raise UserError(f"{PREFIX}{name} cannot be read from {reading.root}: {reason}; {advice}") from error


def _labels(dataset: Any) -> list[int]:
    """Return the class numbers, -1 for an unlabelled image; the sets keep them under several names."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return [int(label) for label in np.asarray(getattr(dataset, attribute))]
    return [int(label) for _, label in dataset]


def _classes(dataset: Any, labels: list[int]) -> tuple[str, ...]:
    """Return the class names by number: WordNet ids where the set has them (two classes of ImageNet are "crane")."""
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None) or range(max(labels) + 1)
    return tuple(str(name) for name in names)


def _sample(dataset: Any, name: str, row: int, label: int, files: bool) -> Sample:
    key = f"{name.lower()}_{row:06d}"
    if files:
        return Sample(key, label, dataset[row][0])
    return Sample(key, label, f"{row} of {name}", content=partial(_png, dataset, row))


def _png(dataset: Any, row: int) -> bytes:
    return lossless(dataset[row][0])
