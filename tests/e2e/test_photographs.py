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

from mixdist.data.index import open_set

FOLDER = os.environ.get("MIXDIST_DATA", "")
CIFAR, TINY_IMAGENET = "cifar10-jpeg.tar.gz", "tiny-imagenet-25pct.tar.gz"
CONFIGS = Path(__file__).parents[2] / "configs" / "paper"
CLASSES, TRAIN, TEST = 3, 10, 4  # classes; images of each

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
    """Tiny ImageNet's first classes with all their grayscale images, and the lines of val_annotations.txt for them."""
    folder = tmp_path_factory.mktemp("tiny-imagenet")
    taken: Counter[str] = Counter()
    tests: dict[str, bytes] = {}
    annotations = ""
    with tarfile.open(Path(FOLDER) / TINY_IMAGENET) as archive:
        for member in archive:
            parts = member.name.split("/")
            if not member.isfile() or (parts[1] == "train" and parts[2] not in taken and len(taken) == CLASSES):
                continue
            content = read(archive, member)
            if parts[1] == "train" and (taken[parts[2]] < TRAIN or is_grayscale(content)):
                taken[parts[2]] += 1
                keep(folder / "source" / "/".join(parts[1:]), content)
            elif parts[-1] == "val_annotations.txt":
                annotations = content.decode()
            elif parts[1] == "val":
                tests[parts[-1]] = content
    lines = [line for line in annotations.splitlines(keepends=True) if line.split("\t")[1] in taken]
    keep(folder / "source" / "val" / "val_annotations.txt", "".join(lines).encode())
    for line in lines:
        file = line.split("\t")[0]
        keep(folder / "source" / "val" / "images" / file, tests[file])
    assert any(is_grayscale(path.read_bytes()) for path in (folder / "source" / "train").rglob("*.JPEG"))
    return packed(folder)


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
    short = {"data.fraction": 1, "method.ssl_epochs": 2, "method.sl_epochs": 2, "train.batch": 16}
    where = {"data.sl": folder, "run.dir": tmp_path / "run", "tracking.wandb": "disabled", "train.log_every": 1}
    assert train_here({**short, **where}, "--config", str(CONFIGS / f"{config}.yaml")) == 0

    packed_set, found, lines = open_set(folder), result(tmp_path / "run"), records(tmp_path / "run")
    assert len(packed_set.classes) == CLASSES
    images = len(packed_set.split("train").index)
    assert {name: phase["images"] for name, phase in found["phases"].items()} == dict.fromkeys(
        ("ssl", "mix", "sl"), images
    )
    assert len(lines) == 3 * math.ceil(images / 16)
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert 0 <= found["accuracy"] <= 100
