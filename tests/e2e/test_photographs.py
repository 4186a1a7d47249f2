"""Each paper config trains on real photographs: a few of CIFAR-10 and of Tiny ImageNet, in their own layouts."""

from __future__ import annotations

import io
import math
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from launching import mixdist, records, result, run, train_here
from PIL import Image

from mixdist.data.open_set import open_set

FOLDER = os.environ.get("MIXDIST_DATA", "")
CIFAR, TINY_IMAGENET = "cifar10-jpeg.tar.gz", "tiny-imagenet-25pct.tar.gz"
CONFIGS = Path(__file__).parents[2] / "configs" / "paper"
CLASSES, TRAIN, TEST = 3, 6, 2  # classes; images of each

pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER,
        reason=f"MIXDIST_DATA is not set: it names a folder with {CIFAR} and {TINY_IMAGENET}, as .ci/run sets it",
    ),
]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's first classes, packed from SPLIT/CLASS/*.jpg."""
    folder = tmp_path_factory.mktemp("cifar")
    taken: Counter[str] = Counter()
    with tarfile.open(Path(FOLDER) / CIFAR) as archive:
        classes: list[str] = []
        for member in archive:
            split, name, *file = member.name.split("/") + [""] * 2
            if not member.isfile() or not any(file):
                continue
            if name not in classes and len(classes) < CLASSES:
                classes.append(name)
            place = f"{split}/{name}"
            if name in classes and taken[place] < (TRAIN if split == "train" else TEST):
                taken[place] += 1
                keep(folder / "source" / member.name, read(archive, member))
    return packed(folder)


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of Tiny ImageNet, one with grayscale images, and the lines of val_annotations.txt for them."""
    folder = tmp_path_factory.mktemp("tiny-imagenet")
    train, tests, annotations = read_tiny_imagenet(Path(FOLDER) / TINY_IMAGENET)
    with_grayscale = next(name for name, images in train.items() if any(map(is_grayscale, images.values())))
    chosen = [*[name for name in train if name != with_grayscale][: CLASSES - 1], with_grayscale]
    for name in chosen:
        grayscale_first = sorted(train[name].items(), key=lambda image: not is_grayscale(image[1]))
        for file, content in grayscale_first[:TRAIN]:
            keep(folder / "source" / "train" / name / "images" / file, content)
    every = annotations.splitlines(keepends=True)
    lines = [line for name in chosen for line in [line for line in every if line.split("\t")[1] == name][:TEST]]
    keep(folder / "source" / "val" / "val_annotations.txt", "".join(lines).encode())
    for line in lines:
        file = line.split("\t")[0]
        keep(folder / "source" / "val" / "images" / file, tests[file])
    return packed(folder)


def read_tiny_imagenet(path: Path) -> tuple[dict[str, dict[str, bytes]], dict[str, bytes], str]:
    """Return the train images of the classes up to the first with grayscale images, the val images, and their lines."""
    train: dict[str, dict[str, bytes]] = {}
    tests: dict[str, bytes] = {}
    annotations = ""
    enough = False
    with tarfile.open(path) as archive:
        for member in archive:
            _, split, *inside = member.name.split("/")
            if not member.isfile() or (split == "train" and enough and inside[0] not in train):
                continue
            content = read(archive, member)
            if split == "train":
                train.setdefault(inside[0], {})[inside[-1]] = content
                enough = enough or (len(train) >= CLASSES and is_grayscale(content))
            elif inside == ["val_annotations.txt"]:
                annotations = content.decode()
            elif split == "val":
                tests[inside[-1]] = content
    return train, tests, annotations


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def is_grayscale(content: bytes) -> bool:
    with Image.open(io.BytesIO(content)) as image:
        return image.mode == "L"


def packed(folder: Path) -> Path:
    done = run(mixdist("pack", "source", "set"), folder)
    assert done.code == 0, done.err
    return folder / "set"


@pytest.mark.parametrize("config", [path.stem for path in sorted(CONFIGS.glob("*.yaml"))])
def test_a_paper_config_trains_on_photographs(config: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue("tiny_imagenet" if config.endswith("tiny_imagenet") else "cifar")
    short = {"data.fraction": 1, "method.ssl_epochs": 2, "method.sl_epochs": 2, "train.batch": 8}
    where = {"data.sl": folder, "run.dir": tmp_path / "run", "tracking.wandb": "disabled", "train.log_every": 1}
    assert train_here({**short, **where}, "--config", str(CONFIGS / f"{config}.yaml")) == 0

    packed_set, found, lines = open_set(folder), result(tmp_path / "run"), records(tmp_path / "run")
    assert len(packed_set.classes) == CLASSES
    images = len(packed_set.split("train").index)
    assert {name: phase["images"] for name, phase in found["phases"].items()} == dict.fromkeys(
        ("ssl", "mix", "sl"), images
    )
    assert len(lines) == 3 * math.ceil(images / 8)
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert 0 <= found["accuracy"] <= 100
